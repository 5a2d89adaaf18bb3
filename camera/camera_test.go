package camera

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/jpeg"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"signaldevice/testserver/pki"
)

const hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

func TestCamera_AnswersEveryCommand(t *testing.T) {
	s := newSite(t)
	c := s.start(Config{Name: "taxi-1", Seed: 7})
	tests := []struct {
		command, args string
		progress      int      // replies before the final one
		fields        []string // of the final result; nil: it is a text
	}{
		{"ping", ``, 0, []string{"time", "uptime"}},
		{"get_status", ``, 0, []string{"system", "storage", "network", "camera", "detection", "events"}},
		{"get_status", `{"sections":["storage"]}`, 0, []string{"storage"}},
		{"get_position", `{"max_age":0}`, 0, []string{"latitude", "longitude", "speed_kmh", "heading", "at"}},
		{"snapshot", ``, 0, []string{"content_type", "data"}},
		{"record_clip", `{"duration":20,"before":10}`, 3, []string{"clip", "duration", "size_bytes"}},
		{"set_config", `{"sensitivity":"high","alert":{"repeat_s":5}}`, 0, []string{"sensitivity", "alert", "language"}},
		{"set_volume", `{"volume":0}`, 0, []string{"volume", "previous"}},
		{"calibrate", `{"mode":"full"}`, 3, []string{"mode", "confidence"}},
		{"get_logs", `{"level":"debug","lines":5}`, 0, nil},
		{"run_diagnostics", ``, 8, []string{"passed", "tests"}},
		{"run_diagnostics", `{"tests":["lens","network"]}`, 2, []string{"passed", "tests"}},
		{"reboot", ``, 0, []string{"restarting_in"}},
		{"update_firmware", `{"version":"3.0.0","url":"https://example.org/fw","sha256":"` + hash + `"}`, 5, []string{"version", "previous"}},
	}
	for i, tt := range tests {
		id := fmt.Sprintf("sdr1_request-%d", i)
		s.send("cam1", id, tt.command, tt.args)
		replies := s.replies(id)
		if len(replies) != tt.progress+1 {
			t.Errorf("%s: %d replies, want %d", tt.command, len(replies), tt.progress+1)
		}
		last := replies[len(replies)-1]
		if last.Status != statusOK || last.Error != nil || last.topic != "$devices/cam1/events" {
			t.Errorf("%s: %s on %s", tt.command, last.body, last.topic)
		}
		if len(last.body) > maxPayload {
			t.Errorf("%s: a reply of %d bytes", tt.command, len(last.body))
		}
		if tt.fields == nil {
			var text string
			if err := json.Unmarshal(last.Result, &text); err != nil || text == "" {
				t.Errorf("%s: result %s is no text", tt.command, last.Result)
			}
			continue
		}
		var result map[string]json.RawMessage
		if err := json.Unmarshal(last.Result, &result); err != nil {
			t.Errorf("%s: result %s: %v", tt.command, last.Result, err)
		}
		for _, f := range tt.fields {
			if result[f] == nil {
				t.Errorf("%s: the result has no %s: %s", tt.command, f, last.Result)
			}
		}
		if tt.command == "reboot" { // the next command must not meet the camera on its way down
			eventually(t, "the camera is back", func() bool { return c.Stats().Reconnects == 1 })
		}
	}
}

// The catalogue is another package's file. Read here, it shows that this camera knows every command of it.
func TestCamera_KnowsTheDefaultCatalogue(t *testing.T) {
	text := must(os.ReadFile("../catalogue/commands.yaml"))(t)
	names := regexp.MustCompile(`(?m)^  - name: (\w+)$`).FindAllSubmatch(text, -1)
	if len(names) < 12 {
		t.Fatalf("%d commands found", len(names))
	}
	c := idle(t, Config{})
	for _, name := range names {
		if _, known := c.handler(string(name[1])); !known {
			t.Errorf("%s is not known", name[1])
		}
	}
}

// idle returns a camera that is not run.
func idle(t testing.TB, cfg Config) *Camera {
	t.Helper()
	cfg.API = "http://127.0.0.1:1"
	if cfg.Pace == 0 {
		cfg.Pace = time.Nanosecond
	}
	return must(New(cfg))(t)
}

// perform executes a command on a camera without a connection.
func perform(t testing.TB, c *Camera, name, args string) reply {
	t.Helper()
	cmd := command{RequestID: "r", Command: name, Args: json.RawMessage(args)}
	return c.perform(t.Context(), task{command: cmd, received: c.cfg.Clock()}, func(any) {}).reply
}

func TestCamera_RefusesBadArguments(t *testing.T) {
	update := func(version, url, sum string) string {
		return fmt.Sprintf(`{"version":%q,"url":%q,"sha256":%q}`, version, url, sum)
	}
	tests := []struct {
		command, args string
		fault         string // in the error's message; "": it is accepted
	}{
		{"ping", ``, ""},
		{"ping", `{}`, ""},
		{"ping", `[]`, "must be an object"},
		{"ping", `null`, "must be an object"},
		{"ping", `{"x":1}`, "unknown field"},
		{"get_status", `{"sections":["system","events"]}`, ""},
		{"get_status", `{"sections":["engine"]}`, "sections must be one of"},
		{"get_status", `{"sections":["system","system"]}`, "must not repeat"},
		{"get_position", `{"max_age":3600}`, ""},
		{"get_position", `{"max_age":3601}`, "max_age"},
		{"get_position", `{"max_age":-1}`, "max_age"},
		{"snapshot", `{"width":160,"quality":10}`, ""},
		{"snapshot", `{"width":1920,"quality":95}`, ""},
		{"snapshot", `{"width":144}`, "width"},
		{"snapshot", `{"width":1936}`, "width"},
		{"snapshot", `{"width":161}`, "multiple of 16"},
		{"snapshot", `{"quality":9}`, "quality"},
		{"snapshot", `{"quality":96}`, "quality"},
		{"snapshot", `{"view":"boot"}`, "view"},
		{"record_clip", `{"duration":1}`, ""},
		{"record_clip", `{"duration":120,"before":30}`, ""},
		{"record_clip", `{}`, "duration"},
		{"record_clip", `{"duration":121}`, "duration"},
		{"record_clip", `{"duration":1,"before":31}`, "before"},
		{"set_config", `{"min_speed_kmh":0}`, ""},
		{"set_config", `{"language":"pt-BR"}`, ""},
		{"set_config", `{}`, "at least one"},
		{"set_config", `{"colour":"red"}`, "unknown field"},
		{"set_config", `{"eyes_closed_ms":499}`, "eyes_closed_ms"},
		{"set_config", `{"alert":{"sound":"siren"}}`, "alert.sound"},
		{"set_config", `{"language":"English"}`, "language"},
		{"set_volume", `{"volume":0}`, ""},
		{"set_volume", `{"volume":100}`, ""},
		{"set_volume", `{"volume":101}`, "volume"},
		{"set_volume", `{"volume":-1}`, "volume"},
		{"set_volume", `{"volume":"loud"}`, "cannot unmarshal"},
		{"set_volume", ``, "volume"},
		{"calibrate", `{"mode":"slow"}`, "mode"},
		{"get_logs", `{"lines":2000,"since":"2026-11-24T08:00:00Z"}`, ""},
		{"get_logs", `{"lines":2001}`, "lines"},
		{"get_logs", `{"lines":0}`, "lines"},
		{"get_logs", `{"level":"loud"}`, "level"},
		{"get_logs", `{"since":"yesterday"}`, "yesterday"},
		{"run_diagnostics", `{"tests":["engine"]}`, "tests must be one of"},
		{"reboot", `{"delay":300}`, ""},
		{"reboot", `{"delay":301}`, "delay"},
		{"update_firmware", update("2.4.1-rc.1", "https://x", hash), ""},
		{"update_firmware", update("2.4", "https://x", hash), "version"},
		{"update_firmware", update("2.4.1", "http://x", hash), "url"},
		{"update_firmware", update("2.4.1", "https://x", hash[1:]), "sha256"},
	}
	c := idle(t, Config{})
	for _, tt := range tests {
		t.Run(tt.command+" "+tt.args, func(t *testing.T) {
			before := c.unit.view()
			r := perform(t, c, tt.command, tt.args)
			if tt.fault == "" {
				if r.Status != statusOK {
					t.Fatalf("refused: %+v", r.Error)
				}
				return
			}
			if r.Status != statusError || r.Error.Code != codeInvalidArguments || !strings.Contains(r.Error.Message, tt.fault) {
				t.Errorf("got %s %+v, want %s naming %q", r.Status, r.Error, codeInvalidArguments, tt.fault)
			}
			if after := c.unit.view(); after != before {
				t.Errorf("it changed the camera: %+v, before %+v", after, before)
			}
		})
	}
}

func TestCamera_SnapshotIsAPictureOfItsRequest(t *testing.T) {
	c := idle(t, Config{Name: "taxi-1", Clock: func() time.Time { return time.Unix(1_795_500_000, 0) }})
	shoot := func(id, args string) []byte {
		t.Helper()
		cmd := command{RequestID: id, Command: "snapshot", Args: json.RawMessage(args)}
		r := c.perform(t.Context(), task{command: cmd, received: c.cfg.Clock()}, nil).reply
		var result struct {
			ContentType string `json:"content_type"`
			Data        []byte `json:"data"`
		}
		if err := json.Unmarshal(must(json.Marshal(r.Result))(t), &result); err != nil {
			t.Fatal(err)
		}
		if result.ContentType != "image/jpeg" {
			t.Errorf("content type %q", result.ContentType)
		}
		return result.Data
	}
	for args, width := range map[string]int{
		`{}`: 640, `{"width":160}`: 160, `{"width":1920,"quality":95}`: 1920, `{"view":"road"}`: 640,
	} {
		data := shoot("request-1", args)
		shown, err := jpeg.Decode(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", args, err)
		}
		if got := shown.Bounds().Size(); got.X != width || got.Y != width*3/4 {
			t.Errorf("%s: %v", args, got)
		}
		if limit := map[bool]int{true: 60 << 10, false: maxJPEG}[width == 640]; len(data) > limit {
			t.Errorf("%s: %d bytes, want at most %d", args, len(data), limit)
		}
	}
	one := shoot("request-1", `{}`)
	if !bytes.Equal(one, shoot("request-1", `{}`)) {
		t.Error("the same request gives other bytes")
	}
	if bytes.Equal(one, shoot("request-2", `{}`)) {
		t.Error("the picture does not show its request")
	}
	if bytes.Equal(one, shoot("request-1", `{"view":"road"}`)) {
		t.Error("driver and road look the same")
	}
}

func TestCamera_RemembersWhatItIsTold(t *testing.T) {
	c := idle(t, Config{})
	perform(t, c, "set_volume", `{"volume":11}`)
	perform(t, c, "set_config", `{"alert":{"sound":"none"}}`)
	perform(t, c, "update_firmware", fmt.Sprintf(`{"version":"9.9.9","url":"https://x","sha256":%q}`, hash))
	v := c.unit.view()
	if v.Volume != 11 || v.Settings.Alert != (warning{Sound: "none", Vibration: true, RepeatS: 10}) {
		t.Errorf("volume %d, alert %+v", v.Volume, v.Settings.Alert)
	}
	if v.Firmware == "9.9.9" {
		t.Error("the new firmware runs before the restart")
	}
	c.unit.start(time.Now())
	if v := c.unit.view(); v.Firmware != "9.9.9" || v.Volume != 11 {
		t.Errorf("after the restart: firmware %s, volume %d", v.Firmware, v.Volume)
	}
}

func TestCamera_RefusesARestartOfAMovingCarOnlyWhenTold(t *testing.T) {
	now := time.Unix(1_795_500_000, 0)
	c := idle(t, Config{Clock: func() time.Time { return now }})
	seek := func(moving bool) {
		for c.drive.position(now).SpeedKMH >= 1 != moving {
			now = now.Add(time.Second)
		}
	}
	for _, tt := range []struct {
		moving bool
		args   string
		want   string
	}{
		{true, `{"only_when_parked":true}`, statusError},
		{true, `{"only_when_parked":false}`, statusOK},
		{true, `{}`, statusOK},
		{false, `{"only_when_parked":true}`, statusOK},
	} {
		seek(tt.moving)
		r := perform(t, c, "reboot", tt.args)
		if r.Status != tt.want || (r.Error != nil && r.Error.Code != codeCarMoving) {
			t.Errorf("moving %t, %s: %s %+v", tt.moving, tt.args, r.Status, r.Error)
		}
	}
}

func TestCamera_LogsAreFilteredAndBounded(t *testing.T) {
	now := time.Unix(1_795_500_000, 0)
	c := idle(t, Config{Clock: func() time.Time { return now }})
	for i := range maxLogLines + 10 {
		now = now.Add(time.Second)
		c.unit.write(now, logLevel(i%4), []string{"mqtt", "camera"}[i/4%2], fmt.Sprint("line ", i))
	}
	lines := func(args string) []string {
		return strings.Split(perform(t, c, "get_logs", args).Result.(string), "\n")
	}
	if got := lines(`{"level":"debug","lines":2000}`); len(got) != maxLogLines {
		t.Errorf("%d lines kept, want %d", len(got), maxLogLines)
	}
	if got := lines(`{"lines":3}`); len(got) != 3 || !slices.IsSorted(got) || !strings.HasSuffix(got[2], "line 309") {
		t.Errorf("the newest three: %q", got)
	}
	for _, l := range lines(`{"level":"error","component":"camera"}`) {
		if !strings.Contains(l, " error   camera: ") {
			t.Errorf("a line that does not match: %q", l)
		}
	}
	since := now.Add(-2 * time.Second).UTC().Format(time.RFC3339)
	if got := lines(fmt.Sprintf(`{"level":"debug","since":%q}`, since)); len(got) < 3 || !strings.HasSuffix(got[0], "line 307") {
		t.Errorf("since %s: %q", since, got)
	}
}

func TestCamera_AnswersWhatItDoesNotKnow(t *testing.T) {
	s := newSite(t)
	c := s.start(Config{})
	s.send("cam1", "r1", "self_destruct", "")
	if r := s.replies("r1")[0]; r.Status != statusError || r.Error.Code != codeUnknownCommand {
		t.Errorf("unknown command: %s", r.body)
	}
	s.send("cam1", "r2", "set_volume", `{"volume":900}`)
	if r := s.replies("r2")[0]; r.Status != statusError || r.Error.Code != codeInvalidArguments {
		t.Errorf("bad arguments: %s", r.body)
	}
	for _, body := range []string{"", "not json", "[]", `{"command":"ping"}`, `{"request_id":7,"command":"ping"}`, strings.Repeat("x", maxPayload)} {
		s.sendRaw("cam1", body)
	}
	s.noEvent("cam1")
	if got := c.Stats(); got.CommandsMalformed != 6 || got.Reconnects != 0 {
		t.Errorf("%+v", got)
	}
}

func TestCamera_DoesNotExecuteAfterItsTime(t *testing.T) {
	s := newSite(t)
	// The camera's clock is two days slow (F14): only the time left, counted from the receipt, can be trusted.
	c := s.start(Config{Clock: func() time.Time { return time.Now().Add(-48 * time.Hour) }})
	past, future := time.Now().Add(-72*time.Hour).UTC().Format(time.RFC3339), time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	tests := []struct{ id, times, want string }{
		{"time left", `"expires_in":0.5`, statusOK},
		{"time left, whatever the clock says", `"expires_in":5,"expires_at":"` + past + `"`, statusOK},
		{"no time left", `"expires_in":0,"expires_at":"` + future + `"`, statusError},
		{"less than no time left", `"expires_in":-3`, statusError},
		{"only a moment that has passed", `"expires_at":"` + past + `"`, statusError},
		{"only a moment to come", `"expires_at":"` + future + `"`, statusOK},
		{"very much time left", `"expires_in":1e300`, statusOK},
		{"no limit", `"args":null`, statusOK},
	}
	executed := int64(0)
	for _, tt := range tests {
		s.sendRaw("cam1", fmt.Sprintf(`{"request_id":%q,"command":"get_position",%s}`, tt.id, tt.times))
		if tt.want == statusOK {
			executed++
		}
		r := s.replies(tt.id)[0]
		if tt.id == "no limit" { // null is no object, but it was in time
			if r.Error == nil || r.Error.Code != codeInvalidArguments {
				t.Errorf("%s: %s", tt.id, r.body)
			}
			continue
		}
		if r.Status != tt.want || (tt.want == statusError && r.Error.Code != codeExpired) {
			t.Errorf("%s: %s", tt.id, r.body)
		}
	}
	if got := c.Stats().CommandsExecuted; got != executed {
		t.Errorf("%d commands executed, want %d", got, executed)
	}
}

func TestCamera_ExecutesADuplicateOnceAndAnswersBoth(t *testing.T) {
	s := newSite(t)
	c := s.start(Config{})
	for _, tt := range []struct{ id, command, args string }{
		{"r1", "set_volume", `{"volume":33}`},
		{"r2", "snapshot", ``},
		{"r3", "record_clip", `{"duration":1}`},
		{"r4", "nonsense", ``},
	} {
		s.send("cam1", tt.id, tt.command, tt.args)
		first := s.replies(tt.id)
		s.send("cam1", tt.id, tt.command, tt.args)
		second := s.replies(tt.id)
		if len(first) != len(second) {
			t.Fatalf("%s: %d replies, then %d", tt.command, len(first), len(second))
		}
		for i := range first {
			if first[i].body != second[i].body {
				t.Errorf("%s: %.200s, then %.200s", tt.command, first[i].body, second[i].body)
			}
		}
	}
	if got := c.Stats(); got.CommandsExecuted != 3 || got.CommandsDuplicate != 4 {
		t.Errorf("%+v", got)
	}
	if clips := c.unit.view().Clips; clips != 1 {
		t.Errorf("%d clips", clips)
	}
}

func TestCamera_RestartsOnceForARebootThatCameTwice(t *testing.T) {
	s := newSite(t)
	c := s.start(Config{})
	s.send("cam1", "r1", "update_firmware", fmt.Sprintf(`{"version":"7.7.7","url":"https://x","sha256":%q}`, hash))
	s.replies("r1")
	eventually(t, "a reconnect", func() bool { return c.Stats().Reconnects == 1 })
	s.send("cam1", "r1", "update_firmware", `{}`)
	s.replies("r1")
	s.send("cam1", "r2", "get_status", `{"sections":["system"]}`)
	if r := s.replies("r2")[0]; !strings.Contains(string(r.Result), `"firmware":"7.7.7"`) {
		t.Errorf("status after the update: %s", r.Result)
	}
	if got := c.Stats(); got.Reconnects != 1 || got.CommandsExecuted != 2 {
		t.Errorf("%+v", got)
	}
}

func TestCamera_KeepsAReplyOverABrokerRestart(t *testing.T) {
	s := newSite(t)
	g := make(gate, 1)
	c := s.start(Config{connecting: g, Faults: Faults{ReplyDelay: time.Second}}) // after the broker has gone, also on a busy machine
	g <- struct{}{}                                                              // the camera cannot come back before the observer
	s.send("cam1", "r1", "ping", "")
	eventually(t, "the command is there", func() bool { return c.Stats().CommandsExecuted == 1 })
	s.broker.Kill()
	eventually(t, "the reply waits", func() bool { _, waits := c.outbox.first(); return waits })
	s.broker.Restart()
	s.observe()
	<-g
	if r := s.replies("r1")[0]; r.Status != statusOK {
		t.Errorf("reply: %s", r.body)
	}
	eventually(t, "the reply is acknowledged", func() bool { _, waits := c.outbox.first(); return !waits })
	eventually(t, "the camera is subscribed again", func() bool { return c.Stats().Reconnects == 1 }) // may be after its reply
	if got := c.Stats(); got.RepliesAcked != 1 || got.CommandsExecuted != 1 {
		t.Errorf("%+v", got)
	}
}

func TestCamera_DrawsOnlyWithAPlaceToDraw(t *testing.T) {
	s := newSite(t)
	g := make(gate, 1)
	c := s.start(Config{drawing: g})
	g <- struct{}{}
	s.send("cam1", "r1", "snapshot", "")
	eventually(t, "the picture waits", func() bool { _, waits := c.outbox.first(); return waits })
	if got := c.Stats().RepliesPublished; got != 0 {
		t.Errorf("%d replies published", got)
	}
	<-g
	s.replies("r1")
}

func TestCamera_MemoryIsBounded(t *testing.T) {
	t.Run("the thousandth request is remembered, one more makes room", func(t *testing.T) {
		var h history
		for i := range maxHistory {
			h.begin(fmt.Sprint(i))
		}
		if _, first := h.begin("0"); first {
			t.Error("the oldest of 1,000 was forgotten")
		}
		h.begin("one more")
		if _, first := h.begin("0"); !first {
			t.Error("the oldest of 1,001 is still known")
		}
		if len(h.requests) != maxHistory || len(h.order) != maxHistory {
			t.Errorf("%d requests, order of %d", len(h.requests), len(h.order))
		}
	})
	t.Run("the 65th command at a time gets busy, and the same when repeated", func(t *testing.T) {
		c := idle(t, Config{})
		ping := func(i int) []byte { return fmt.Appendf(nil, `{"request_id":"%d","command":"ping"}`, i) }
		for i := range maxRunning {
			if task, _ := c.accept(ping(i)); task == nil {
				t.Fatalf("command %d was not accepted", i)
			}
		}
		for range 2 {
			if task, taken := c.accept(ping(maxRunning)); task != nil || !taken {
				t.Fatalf("accepted %v, %t", task, taken)
			}
			m, ok := c.outbox.first()
			if !ok || m.reply.Error == nil || m.reply.Error.Code != codeBusy {
				t.Fatalf("message %+v", m)
			}
			c.outbox.drop()
		}
		c.running.Add(-1)
		if task, _ := c.accept(ping(maxRunning + 1)); task == nil {
			t.Error("refused although one has ended")
		}
	})
	t.Run("with 1,000 replies unsent a command stays with the broker", func(t *testing.T) {
		c := idle(t, Config{})
		for i := range maxUnsent {
			if _, taken := c.accept([]byte(`{"request_id":"r","command":"ping"}`)); !taken {
				t.Fatalf("refused with %d unsent", i)
			}
			c.outbox.put(message{reply: &reply{}})
		}
		if _, taken := c.accept([]byte(`{"request_id":"s","command":"ping"}`)); taken {
			t.Error("taken with 1,000 unsent")
		}
		c.outbox.drop()
		if _, taken := c.accept([]byte(`{"request_id":"s","command":"ping"}`)); !taken {
			t.Error("refused with 999 unsent")
		}
	})
}

func TestNew_RefusesABadConfiguration(t *testing.T) {
	authority := must(pki.NewAuthority())(t)
	own, other := must(authority.Issue("cam"))(t), must(authority.Issue("other"))(t)
	tests := map[string]struct {
		edit func(*Config)
		want string // in the error; "": none
	}{
		"as built":               {func(*Config) {}, ""},
		"no identity, no API":    {func(c *Config) { c.Identity = nil }, "is needed"},
		"an API instead":         {func(c *Config) { c.Identity, c.API = nil, "http://x" }, ""},
		"a folder instead":       {func(c *Config) { c.Identity, c.Folder = nil, "x" }, ""},
		"no broker":              {func(c *Config) { c.Identity.Broker = "" }, "ssl://host:port"},
		"a broker without TLS":   {func(c *Config) { c.Identity.Broker = "tcp://x:1883" }, "ssl://host:port"},
		"a broker without port":  {func(c *Config) { c.Identity.Broker = "ssl://x" }, "missing port"},
		"another's key":          {func(c *Config) { c.Identity.Key = other.Key }, "private key does not match"},
		"no CA":                  {func(c *Config) { c.Identity.CA = nil }, "holds no certificate"},
		"one topic only":         {func(c *Config) { c.Identity.Topics.Events = "e" }, "both topics"},
		"a probability of 1":     {func(c *Config) { c.Faults.Garbage = 1 }, ""},
		"a probability above 1":  {func(c *Config) { c.Faults.Garbage = 1.01 }, "Garbage"},
		"a probability below 0":  {func(c *Config) { c.Faults.DropConnection = -0.01 }, "DropConnection"},
		"a negative reply delay": {func(c *Config) { c.Faults.ReplyDelay = -1 }, "ReplyDelay"},
		"a negative pace":        {func(c *Config) { c.Pace = -1 }, "Pace"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Identity: &Identity{Broker: "ssl://h:1", Certificate: own.Cert, Key: own.Key, CA: authority.PEM}}
			tt.edit(&cfg)
			_, err := New(cfg)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestIdentity_TopicsWithoutAnID(t *testing.T) {
	for want, id := range map[Topics]Identity{
		{"$me/device/commands", "$me/device/events"}:     {},
		{"$devices/abc/commands", "$devices/abc/events"}: {ID: "abc"},
		{"c", "e"}: {ID: "abc", Topics: Topics{"c", "e"}},
	} {
		if got := id.topics(); got != want {
			t.Errorf("%+v: %+v, want %+v", id, got, want)
		}
	}
}

func TestRun_WorksOnceOnly(t *testing.T) {
	s := newSite(t)
	c := s.start(Config{})
	if err := c.Run(t.Context()); err == nil {
		t.Error("a second Run was accepted")
	}
}
