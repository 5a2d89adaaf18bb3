package queue_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"signaldevice/broker/queue"
	"signaldevice/device"
)

func minted(dev device.ID) device.RequestID {
	return ring.Mint(time.Now(), alice, dev, time.Now().Add(time.Minute))
}

// One candidate is verified: the subtopic, else the envelope's request_id, else the first id in the first KB (I3).
func TestRecognise(t *testing.T) {
	id, other, foreign := minted(cam), minted(cam), minted("cam-2")
	bent := device.RequestID(strings.Replace(string(id), string(id[60]), "@", 1))
	envelope := func(rest string) string { return fmt.Sprintf(`{"request_id":%q%s}`, id, rest) }
	pad := func(n int) string { return strings.Repeat("x", n) }
	tests := map[string]struct {
		subtopic string
		payload  string
		want     device.RequestID // "": no reply
		seq      int
		final    bool
	}{
		"an envelope":                                  {"", envelope(""), id, 0, true},
		"an envelope with space around it":             {"", " \r\n\t" + envelope("") + "\n", id, 0, true},
		"status ok":                                    {"", envelope(`,"status":"ok"`), id, 0, true},
		"progress is not final":                        {"", envelope(`,"status":"progress","seq":3`), id, 3, false},
		"progress that says that it is final":          {"", envelope(`,"status":"progress","final":true`), id, 0, true},
		"ok that says that it is not final":            {"", envelope(`,"status":"ok","final":false`), id, 0, false},
		"fields in another order, unknown ones":        {"", fmt.Sprintf(`{"x":[{"seq":9}],"seq":2,"result":{"request_id":"no"},"request_id":%q}`, id), id, 2, true},
		"the largest seq":                              {"", envelope(`,"seq":2147483647`), id, 2147483647, true},
		"a seq over it: bytes with an id":              {"", envelope(`,"seq":2147483648,"status":"progress"`), id, 0, true},
		"a negative seq: bytes with an id":             {"", envelope(`,"seq":-1,"status":"progress"`), id, 0, true},
		"a seq that is no number: bytes with an id":    {"", envelope(`,"seq":"1","status":"progress"`), id, 0, true},
		"a field twice: bytes with an id":              {"", envelope(`,"seq":1,"seq":2,"status":"progress"`), id, 0, true},
		"something behind the object: bytes":           {"", envelope(`,"seq":1,"status":"progress"`) + "x", id, 0, true},
		"an array: bytes":                              {"", `[` + envelope(`,"status":"progress"`) + `]`, id, 0, true},
		"invalid UTF-8: bytes":                         {"", envelope(`,"status":"progress","x":"` + "\xff" + `"`), id, 0, true},
		"text":                                         {"", "OK " + string(id) + " 42", id, 0, true},
		"text, the first of two":                       {"", string(other) + " " + string(id), other, 0, true},
		"an id that ends with the first KB":            {"", pad(1024-device.RequestIDLen) + string(id), id, 0, true},
		"an id that ends one byte later":               {"", pad(1025-device.RequestIDLen) + string(id), "", 0, false},
		"the subtopic":                                 {string(id), "anything", id, 0, true},
		"the subtopic, its seq in an envelope":         {string(id), `{"seq":4,"status":"progress"}`, id, 4, false},
		"the subtopic wins over the envelope":          {string(other), envelope(`,"seq":4`), other, 4, true},
		"a subtopic that is no id":                     {"alarm", envelope(""), id, 0, true},
		"an id inside a longer subtopic is none":       {string(other) + "/x", envelope(""), id, 0, true},
		"a bent id":                                    {"", strings.Replace(envelope(""), string(id), string(bent), 1), "", 0, false},
		"an id of another device":                      {"", string(foreign), "", 0, false},
		"another device's in the subtopic":             {string(foreign), envelope(""), "", 0, false},
		"another device's before the own one":          {"", string(foreign) + " " + string(id), "", 0, false},
		"an envelope whose id is none, another near":   {"", fmt.Sprintf(`{"request_id":"x","near":%q}`, id), "", 0, false},
		"an envelope without an id, one in a field":    {"", fmt.Sprintf(`{"id":%q}`, id), id, 0, true},
		"an envelope whose id is null, one in a field": {"", fmt.Sprintf(`{"request_id":null,"seq":2,"id":%q}`, id), id, 2, true},
		"fields that are null":                         {"", envelope(`,"seq":null,"final":null,"status":null`), id, 0, true},
		"an empty id in the envelope":                  {"", fmt.Sprintf(`{"request_id":"","id":%q}`, id), "", 0, false},
		"a field that differs in case":                 {"", envelope(`,"Seq":5,"FINAL":false`), id, 0, true},
		"no id":                                        {"", "hello", "", 0, false},
		"nothing":                                      {"", "", "", 0, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r, ok := queue.Recognise(ring, cam, tt.subtopic, []byte(tt.payload))
			if ok != (tt.want != "") || r.ID != tt.want {
				t.Fatalf("got %q, %v", r.ID, ok)
			}
			if ok && (r.Seq != tt.seq || r.Final != tt.final || r.Claims.Mailbox != alice || string(r.Body) != tt.payload) {
				t.Errorf("seq %d, final %v", r.Seq, r.Final)
			}
		})
	}
}

// Whatever a device sends, a reply is one to a request of that device.
func FuzzRecognise(f *testing.F) {
	id := minted(cam)
	f.Add("", []byte(fmt.Sprintf(`{"request_id":%q,"seq":1,"final":false}`, id)))
	f.Add(string(id), []byte("x"))
	f.Add("", []byte("OK "+string(id)))
	f.Add("", []byte(`{"request_id":{"request_id":"`+string(id)+`"}}`))
	f.Fuzz(func(t *testing.T, subtopic string, payload []byte) {
		r, ok := queue.Recognise(ring, cam, subtopic, payload)
		if !ok {
			return
		}
		if _, err := ring.Verify(r.ID, cam); err != nil || r.Seq < 0 {
			t.Errorf("took %q, seq %d", r.ID, r.Seq)
		}
		if _, ok := queue.Recognise(ring, "cam-2", subtopic, payload); ok {
			t.Error("the same bytes are another device's reply too")
		}
	})
}
