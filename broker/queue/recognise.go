package queue

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"

	"github.com/go-json-experiment/json/jsontext"

	"signaldevice/device"
)

// searchIn is how far into bytes that are no JSON envelope a request id is looked for.
const searchIn = 1024

// Recognise tells which request an event answers. One candidate is verified: the event's subtopic where it has the shape
// of a request id, else the JSON envelope's request_id, else the first such run of bytes in the first KB. ok is false
// when it is not a request id of this device: then the event is no reply.
func Recognise(ring *device.KeyRing, dev device.ID, subtopic string, payload []byte) (r Reply, ok bool) {
	envelope, isEnvelope := readEnvelope(payload)
	candidate, ok := device.FindRequestID([]byte(subtopic))
	switch {
	case ok && len(candidate) == len(subtopic):
	case isEnvelope && envelope.hasID:
		candidate = device.RequestID(envelope.id)
	default:
		if candidate, ok = device.FindRequestID(payload[:min(len(payload), searchIn)]); !ok {
			return Reply{}, false
		}
	}
	claims, err := ring.Verify(candidate, dev)
	if err != nil {
		return Reply{}, false
	}
	r = Reply{Device: dev, ID: candidate, Claims: claims, Final: true, Body: payload}
	if isEnvelope {
		r.Seq, r.Final = envelope.seq, envelope.final
	}
	return r, true
}

// envelope is what the broker reads of a reply in the JSON form.
type envelope struct {
	id    string
	hasID bool
	seq   int
	final bool
}

// readEnvelope walks the top level of one JSON object without keeping its values. Anything that is not a whole, correct
// object is no envelope: it is given on as bytes.
func readEnvelope(payload []byte) (e envelope, ok bool) {
	if trimmed := bytes.TrimLeft(payload, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return envelope{}, false
	}
	var status string
	var final *bool
	dec := jsontext.NewDecoder(bytes.NewReader(payload))
	if _, err := dec.ReadToken(); err != nil {
		return envelope{}, false
	}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return envelope{}, false
		}
		switch field := name.String(); field {
		case "request_id", "status", "seq", "final":
			value, err := dec.ReadValue()
			if err != nil || !e.take(field, value, &status, &final) {
				return envelope{}, false
			}
		default:
			if err := dec.SkipValue(); err != nil {
				return envelope{}, false
			}
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return envelope{}, false
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return envelope{}, false
	}
	e.final = status != string(device.StatusProgress)
	if final != nil {
		e.final = *final
	}
	return e, true
}

func (e *envelope) take(field string, value jsontext.Value, status *string, final **bool) bool {
	var err error
	switch field {
	case "request_id":
		e.hasID = value.Kind() != 'n' // null is as good as absent
		err = json.Unmarshal(value, &e.id)
	case "status":
		err = json.Unmarshal(value, status)
	case "final":
		err = json.Unmarshal(value, final)
	case "seq":
		err = json.Unmarshal(value, &e.seq)
		if e.seq < 0 || e.seq > math.MaxInt32 {
			return false
		}
	}
	return err == nil
}
