package catalogue_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signaldevice/cache"
	"signaldevice/catalogue"
	"signaldevice/device"
	"signaldevice/dispatch"
)

// broker accepts every command and knows two cameras: "old", which speaks text, and "new".
type broker struct {
	dispatch.Broker // what is not called in these tests

	mu     sync.Mutex
	sent   []dispatch.Send
	lookUp int
}

func (b *broker) Send(_ context.Context, s dispatch.Send) (device.Request, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent = append(b.sent, s)
	return device.Request{Device: s.Device, Command: s.Command.Name, State: device.StateDelivered}, false, nil
}

func (b *broker) Device(_ context.Context, id device.ID) (device.Device, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lookUp++
	return device.Device{ID: id, Labels: device.Labels{"model": string(id)}}, nil
}

func (b *broker) Watch(ctx context.Context, ready func(), _ func(dispatch.Hint)) error {
	ready()
	<-ctx.Done()
	return ctx.Err()
}

func (b *broker) Ping(context.Context) error { return nil }

// running is a Dispatcher over a file of commands that is watched.
type running struct {
	*dispatch.Dispatcher
	t       *testing.T
	path    string
	live    *catalogue.Live
	broker  *broker
	reports []error
	log     bytes.Buffer
}

// run starts it inside a bubble of synctest, and stops it when the test ends.
func run(t *testing.T, file string) *running {
	r := &running{t: t, path: filepath.Join(t.TempDir(), "commands.yaml"), broker: &broker{}}
	r.write(file)
	var err error
	r.live, err = catalogue.OpenLive(catalogue.LiveConfig{
		Path:     r.path,
		Reloaded: func(err error) { r.reports = append(r.reports, err) },
		Log:      slog.New(slog.NewTextHandler(&r.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Dispatcher = dispatch.New(dispatch.Config{Broker: r.broker, Cache: cache.NewMemory(cache.MemoryConfig{TTL: time.Hour}), Catalogue: r.live})
	ctx, stop := context.WithCancel(t.Context())
	var both sync.WaitGroup
	both.Go(func() { r.live.Watch(ctx) })
	both.Go(func() { r.Run(ctx) })
	t.Cleanup(func() {
		stop()
		both.Wait()
	})
	return r
}

// write changes the file and gives the program the second in which it has to notice.
func (r *running) write(file string) {
	r.t.Helper()
	if err := os.WriteFile(r.path, []byte(file), 0o600); err != nil {
		r.t.Fatal(err)
	}
	time.Sleep(time.Second)
	synctest.Wait()
}

// sent sends a command and returns what the broker was given, or the kind of the error.
func (r *running) sent(id device.ID, command string) string {
	r.t.Helper()
	anything := dispatch.Caller{Client: "alice", May: func(string) bool { return true }}
	_, err := r.Send(r.t.Context(), anything, dispatch.SendInput{Device: id, Command: command, Args: json.RawMessage(`{"volume":7}`)})
	if err != nil {
		return string(device.KindOf(err))
	}
	payload := r.broker.sent[len(r.broker.sent)-1].Payload
	return string(payload.JSON) + string(payload.Text)
}

func (r *running) want(id device.ID, command, want string) {
	r.t.Helper()
	if got := r.sent(id, command); got != want {
		r.t.Errorf("%s to %s: got %s, want %s", command, id, got, want)
	}
}

func (r *running) names(id device.ID) string {
	r.t.Helper()
	views, err := r.CommandsOf(r.t.Context(), dispatch.Caller{Client: "alice"}, id)
	if err != nil {
		r.t.Fatal(err)
	}
	var names []string
	for _, v := range views {
		names = append(names, v.Name)
	}
	return strings.Join(names, " ")
}

const (
	oneCommand  = "commands:\n  - {name: set_volume, permission: p, args: {properties: {volume: {type: integer}}}}\n"
	twoCommands = oneCommand + "  - {name: honk, permission: p, args: {}}\n"
	twoModels   = `models: {label: model, values: {old: {speaks: [text]}}}
commands:
  - name: set_volume
    permission: p
    args: {required: [volume], properties: {volume: {type: integer}}}
    text: {send: "VOL {request_id} {volume}", reply: 'OK (?P<request_id>\S+)'}
  - {name: honk, permission: p, args: {}}
`
)

func TestRunning_TakesNewCommandsAndModels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, oneCommand)
		r.want("old", "set_volume", `{"volume":7}`)
		r.want("old", "honk", "unknown_command")

		r.write(twoCommands)
		r.want("old", "honk", `{"volume":7}`)
		if r.broker.lookUp != 0 {
			t.Errorf("where all devices are alike, the broker was asked for one %d times", r.broker.lookUp)
		}

		r.write(twoModels)
		r.want("old", "set_volume", "VOL {request_id} 7")
		r.want("new", "set_volume", `{"volume":7}`)
		r.want("old", "honk", "unknown_command")
		r.want("new", "honk", `{"volume":7}`)
		if old, young := r.names("old"), r.names("new"); old != "set_volume" || young != "set_volume honk" {
			t.Errorf("the old one has %s, the new one %s", old, young)
		}
		if len(r.reports) != 2 || r.reports[0] != nil || r.reports[1] != nil {
			t.Errorf("reported %v", r.reports)
		}
	})
}

func TestRunning_KeepsTheOldCommandsWhenTheFileIsBad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, twoCommands)
		for _, bad := range []string{
			"commands:\n  - {name: Honk, permission: p}\n",                                            // a fault of the file
			strings.Replace(twoModels, `\S+)'}`, `\S+)', examples: [{reply: "NO {request_id}"}]}`, 1), // an example that fails
			"commands:\n  - {name: h", // half written
			"",                        // emptied
		} {
			r.log.Reset()
			reports := len(r.reports)
			r.write(bad)
			r.want("old", "honk", `{"volume":7}`)
			r.want("old", "set_volume", `{"volume":7}`)
			if len(r.reports) != reports+1 || r.reports[reports] == nil {
				t.Errorf("%s: reported %v", bad, r.reports[reports:])
			}
			if got := r.log.String(); strings.Count(got, "level=ERROR") != 1 || !strings.Contains(got, "the version before stays") || !strings.Contains(got, r.path) {
				t.Errorf("%s: logged %s", bad, got)
			}
			if err := r.live.Reload(); err == nil { // SIGHUP
				t.Errorf("%s: a reload says nothing", bad)
			}
			r.want("old", "honk", `{"volume":7}`)
		}
		r.write(oneCommand)
		r.want("old", "honk", "unknown_command")
		r.want("old", "set_volume", `{"volume":7}`)
		if last := r.reports[len(r.reports)-1]; last != nil {
			t.Errorf("reported %v", last)
		}
	})
}
