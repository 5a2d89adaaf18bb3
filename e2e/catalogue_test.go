package e2e

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Commands are an edit of a file while the system runs, also for a camera that speaks lines of text: a shell script
// around mosquitto's clients, with a key made by openssl and enrolled with curl.

// reloadTime is how soon a change of a file is in use: the program looks every second.
const reloadTime = 10 * time.Second // on a busy machine

// textCommands replaces set_volume by one that cameras with the label model=lingua understand too, adds say for them
// alone, and leaves them nothing else.
const textCommands = `models:
  label: model
  values:
    lingua: {speaks: [text]}
  otherwise: {without: [say]}
commands:
  - name: ping
    permission: commands.status
  - name: set_volume
    permission: commands.settings
    args:
      type: object
      additionalProperties: false
      required: [volume]
      properties:
        volume: {type: integer, minimum: 0, maximum: 100}
    text:
      send: "VOL {request_id} {volume}"
      reply: 'OK (?P<request_id>\S+) (?P<volume>\d+) (?P<previous>\d+)'
      examples:
        - args: {volume: 70}
          send: "VOL {request_id} 70"
          reply: "OK {request_id} 70 40"
          result: {volume: "70", previous: "40"}
  - name: say
    permission: commands.settings
    reply: {kind: text}
    args:
      type: object
      additionalProperties: false
      required: [words]
      properties:
        words: {type: string, minLength: 1, maxLength: 100}
    text:
      send: "SAY {request_id} {words}"
      reply: '(?:OK (?P<request_id>\S+)|ERR \S+ (?P<error_code>\d+) (?P<error_message>.*))'
      examples:
        - args: {words: hello there}
          send: "SAY {request_id} hello there"
          reply: "OK {request_id}"
        - reply: "ERR {request_id} 12 speaker off"
          error: {code: "12", message: speaker off}
`

func TestCatalogue_IsEditedWhileTheSystemRuns(t *testing.T) {
	s := startSystem(t)
	text := enrolForeign(t, s, "lingua-1", "--label", "model=lingua")
	startTextCamera(t, text)
	other := s.admin.newDevice("speaks-json").connect()
	s.alice.waitOnline(text.ID)

	say := `{"command":"say","args":{"words":"hello there"}}`
	s.alice.call("POST", sendPath(text.ID), say).refused(http.StatusUnprocessableEntity, "unknown_command")
	commands := write(t, filepath.Join(s.data, "commands.yaml"), textCommands)
	waitFor(t, reloadTime, "the new command to be known", func() bool { return slices.Contains(s.alice.commands(""), "say") })

	t.Run("a new command reaches the camera as a line, and its line is read", func(t *testing.T) {
		expectAnswer(t, s.alice.sendAndWait(text.ID, say), "ok", `null`, `null`)
		expectAnswer(t, s.alice.sendAndWait(text.ID, `{"command":"set_volume","args":{"volume":0}}`), "ok", `{"volume":"0","previous":"40"}`, `null`)
		expectAnswer(t, s.alice.sendAndWait(text.ID, say), "error", `null`, `{"code":"12","message":"speaker off"}`)
	})
	t.Run("the same command reaches another camera as JSON", func(t *testing.T) {
		var sent accepted
		s.alice.call("POST", sendPath(other.ID), `{"command":"set_volume","args":{"volume":7}}`).into(http.StatusAccepted, &sent)
		if cmd := other.next(); cmd.Command != "set_volume" || string(cmd.Args) != `{"volume":7}` || cmd.RequestID != sent.RequestID {
			t.Errorf("it got %+v", cmd)
		}
		other.answer(sent.RequestID, `{"volume":7}`)
		expectOneReply(t, s.alice.poll(other.ID, "5", sent.RequestID), sent.RequestID, `{"volume":7}`)
	})
	t.Run("each camera has its own commands", func(t *testing.T) {
		if got := s.alice.commands("?device=" + text.ID); !slices.Equal(got, []string{"set_volume", "say"}) {
			t.Errorf("the camera of text has %v", got)
		}
		if got := s.alice.commands("?device=" + other.ID); !slices.Equal(got, []string{"ping", "set_volume"}) {
			t.Errorf("the other one has %v", got)
		}
		s.alice.call("GET", "/v1/commands?device=nobody", nil).refused(http.StatusNotFound, "device_not_found")
		s.alice.call("POST", sendPath(text.ID), `{"command":"ping"}`).refused(http.StatusUnprocessableEntity, "unknown_command")
		s.alice.call("POST", sendPath(other.ID), say).refused(http.StatusUnprocessableEntity, "unknown_command")
	})
	t.Run("what fits no line is refused", func(t *testing.T) {
		p := s.alice.call("POST", sendPath(text.ID), `{"command":"say","args":{"words":"a\nVOL x 0"}}`).refused(http.StatusUnprocessableEntity, "invalid_arguments")
		if len(p.Errors) != 1 || p.Errors[0].Location != "args.words" {
			t.Errorf("refused with %+v", p)
		}
	})
	t.Run("a bad file keeps the commands, and is told of", func(t *testing.T) {
		good := s.metric("signal_device_config_last_reload_successful")
		write(t, commands, strings.Replace(textCommands, `send: "VOL {request_id} {volume}"`, `send: "VOL {request_id} {volume}%"`, 1))
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		waitFor(t, reloadTime, "the metric to tell of the bad file", func() bool {
			return s.metric("signal_device_config_last_reload_successful") == good-1
		})
		waitFor(t, reloadTime, "the log to tell of the bad file", func() bool {
			return strings.Contains(read(t, s.log), "line 22: text.examples[0].send: expected")
		})
		expectAnswer(t, s.alice.sendAndWait(text.ID, `{"command":"set_volume","args":{"volume":9}}`), "ok", `{"volume":"9","previous":"0"}`, `null`)

		write(t, commands, textCommands)
		waitFor(t, reloadTime, "the metric to tell of the good file", func() bool {
			return s.metric("signal_device_config_last_reload_successful") == good
		})
	})
}

func sendPath(device string) string { return "/v1/devices/" + device + "/commands" }

// commands are the names in the catalogue, for one device where the query says so.
func (a api) commands(query string) []string {
	a.t.Helper()
	var body struct {
		Commands []struct {
			Name string `json:"name"`
		} `json:"commands"`
	}
	a.call("GET", "/v1/commands"+query, nil).into(http.StatusOK, &body)
	var names []string
	for _, c := range body.Commands {
		names = append(names, c.Name)
	}
	return names
}

// outcome is a reply with everything that a device can say in it.
type outcome struct {
	Status string          `json:"status"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

// sendAndWait sends a command and returns its one reply.
func (a api) sendAndWait(device, body string) outcome {
	a.t.Helper()
	var sent struct {
		Replies []outcome `json:"replies"`
	}
	a.call("POST", sendPath(device), body, "Prefer: wait=20").into(http.StatusOK, &sent)
	if len(sent.Replies) != 1 {
		a.t.Fatalf("got %d replies, want one", len(sent.Replies))
	}
	return sent.Replies[0]
}

func expectAnswer(t *testing.T, got outcome, status, result, failure string) {
	t.Helper()
	if got.Status != status || string(got.Result) != result || string(got.Error) != failure {
		t.Errorf("answered %s, result %s, error %s; want %s, %s, %s", got.Status, got.Result, got.Error, status, result, failure)
	}
}

// startTextCamera runs the script with the files of an enrolled camera until the test ends.
func startTextCamera(t *testing.T, c foreignCamera) {
	t.Helper()
	cmd := exec.Command("testdata/text-camera.sh", filepath.Dir(c.ca), c.host, c.port, c.Topics.Commands, c.Topics.Events)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = stopTimeout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // the script and its clients; fails only where all have ended
		_ = cmd.Wait()                                      // ended by the signal
		if t.Failed() {
			t.Logf("the camera said:\n%s", said.String())
		}
	})
}
