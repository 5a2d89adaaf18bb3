package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"signaldevice/testserver"
)

// sse is one server-sent event.
type sse struct {
	id, name string
	data     struct {
		RequestID string `json:"request_id"`
		DeviceID  string `json:"device_id"`
		Seq       int    `json:"seq"`
		Final     bool   `json:"final"`
		State     string `json:"state"`
		Online    bool   `json:"online"`
		Since     string `json:"since"`
	}
	raw string // the data as they came
}

// words tells an event of one known device and request.
func (e sse) words() string {
	switch e.name {
	case "reply":
		return fmt.Sprintf("reply %d %t", e.data.Seq, e.data.Final)
	case "request":
		return e.data.State
	case "presence":
		return fmt.Sprintf("online %t", e.data.Online)
	default:
		return e.name
	}
}

// readEvents reads a stream to its end.
func readEvents(r io.Reader, each func(sse)) error {
	var e sse
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			e.raw = value
			if err := json.Unmarshal([]byte(value), &e.data); err != nil {
				return err
			}
		case "":
			if e.raw != "" {
				each(e)
			}
			e = sse{}
		}
	}
	return lines.Err()
}

// follower reads a stream of events with curl.
type follower struct {
	t      *testing.T
	events chan sse
	ended  chan error // how curl ended
	last   string
}

// follow opens a stream behind an event; "" at the beginning. It is open when follow returns.
func (a api) follow(after string) *follower {
	a.t.Helper()
	f := &follower{t: a.t, events: make(chan sse, 1000), ended: make(chan error, 1), last: after}
	args := []string{"-sSN", "--fail", "-H", "Authorization: Bearer " + a.token, "-w", "", a.base + "/v1/events"}
	if after != "" {
		args = append(args, "-H", "Last-Event-ID: "+after)
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "curl", args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		a.t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	open, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		in := bufio.NewReader(out)
		if line, err := in.ReadString('\n'); err == nil && strings.HasPrefix(line, "retry: ") {
			close(open)
		}
		err := readEvents(in, func(e sse) { f.events <- e })
		if ended := cmd.Wait(); ended != nil {
			err = fmt.Errorf("%w: %s", ended, said.String())
		}
		f.ended <- err
	}()
	a.t.Cleanup(func() { stop(); <-gone })
	select {
	case <-open:
	case err := <-f.ended:
		a.t.Fatalf("the stream ended at once: %v", err)
	case <-time.After(startTimeout):
		a.t.Fatal("the stream does not open")
	}
	return f
}

// next waits for the next event. It passes over that a request was sent, which may be told or be overtaken.
func (f *follower) next() sse {
	f.t.Helper()
	timeout := time.After(startTimeout)
	for {
		select {
		case e := <-f.events:
			f.last = e.id
			if e.data.State != "sent" {
				return e
			}
		case <-timeout:
			f.t.Fatal("no event came")
		}
	}
}

// wants waits for these events and no others between them.
func (f *follower) wants(words ...string) {
	f.t.Helper()
	for _, want := range words {
		if got := f.next(); got.words() != want {
			f.t.Fatalf("the stream tells %s %s, want %s", got.name, got.raw, want)
		}
	}
}

// Replies and requests are told to their client alone, presence to those who may touch the device (I3).
func TestEvents_TellEachWhatConcernsIt(t *testing.T) {
	roles := write(t, filepath.Join(t.TempDir(), "roles.yaml"), `roles:
  admin: {permissions: ["*"]}
  operator: {permissions: [commands.*]}
  viewer: {permissions: [], labels: {fleet: north}}
clients: {}
`)
	s := startSystem(t, "--roles", roles)
	north, south := enrolForeign(t, s, "north", "--label", "fleet=north"), enrolForeign(t, s, "south", "--label", "fleet=south")
	alice, bob, vera := s.alice.follow(""), s.bob.follow(""), s.watch.follow("")
	for _, f := range []*follower{alice, bob, vera} {
		f.wants("resync")
	}
	connect := func(c foreignCamera) (leave func()) {
		cmd := exec.CommandContext(t.Context(), "mosquitto_sub", c.mosquitto("-t", c.Topics.Commands, "-C", "1")...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return func() { _ = cmd.Wait() } // it leaves after its first command
	}
	leaveSouth := connect(south)
	alice.wants("online true")
	bob.wants("online true")
	leaveNorth := connect(north)
	for _, f := range []*follower{alice, bob, vera} {
		if e := f.next(); e.words() != "online true" || e.data.DeviceID != north.ID || e.data.Since == "" {
			t.Errorf("told %s %s, want that the camera in the north came", e.name, e.raw)
		}
	}

	ofAlice, ofBob := s.alice.ping(north.ID), s.bob.ping(south.ID)
	leaveNorth()
	leaveSouth()
	seen := map[*follower][]string{}
	for f, events := range map[*follower]int{alice: 3, bob: 3, vera: 1} {
		for range events {
			e := f.next()
			seen[f] = append(seen[f], e.name+" "+e.data.RequestID+" "+e.words())
		}
		slices.Sort(seen[f])
	}
	for f, want := range map[*follower][]string{
		alice: {"presence  online false", "presence  online false", "request " + ofAlice.RequestID + " delivered"},
		bob:   {"presence  online false", "presence  online false", "request " + ofBob.RequestID + " delivered"},
		vera:  {"presence  online false"},
	} {
		if !slices.Equal(seen[f], want) {
			t.Errorf("told %q, want %q", seen[f], want)
		}
	}
	run(t, "mosquitto_pub", north.mosquitto("-t", north.Topics.Events, "-m", replyTo(ofAlice.RequestID, 0, true, `"secret"`))...)
	alice.wants("reply 0 true", "answered")
	expectOneReply(t, s.alice.poll(north.ID, "", ofAlice.RequestID), ofAlice.RequestID, `"secret"`) // the stream has taken nothing
	again := s.bob.follow(bob.last)
	s.bob.call("GET", "/v1/me", nil).into(http.StatusOK, nil)
	for f, who := range map[*follower]string{bob: "bob", again: "bob, come back,", vera: "vera"} {
		if len(f.events) > 0 {
			t.Errorf("%s is also told %s", who, f.next().raw)
		}
	}
}

// Every end of a request is told, also the one that only time brings, and a stream that was away misses none of it.
func TestEvents_TellHowRequestsEnd(t *testing.T) {
	catalogue := write(t, filepath.Join(t.TempDir(), "commands.yaml"), `commands:
  - {name: ping, title: Ping, description: d, group: g, permission: commands.ping, deliver_within: 1s, reply_within: 1s, reply: {kind: json}}
  - {name: later, title: Later, description: d, group: g, permission: commands.later, hold: true, deliver_within: 2s, reply_within: 60s, reply: {kind: json}}
`)
	s := startSystem(t, "--catalogue", catalogue)
	dev := s.admin.newDevice("silent")
	f := s.alice.follow("")
	f.wants("resync")
	send := func() accepted {
		var sent accepted
		s.alice.call("POST", "/v1/devices/"+dev.ID+"/commands", `{"command":"later"}`).into(http.StatusAccepted, &sent)
		return sent
	}
	send()
	f.wants("held", "expired")
	s.alice.call("DELETE", "/v1/requests/"+send().RequestID, nil).into(http.StatusOK, nil)
	cancelled := f.next()
	if cancelled.words() == "held" {
		cancelled = f.next() // it may have been told between the two calls
	}
	if cancelled.words() != "cancelled" {
		t.Errorf("told %s, want cancelled", cancelled.raw)
	}

	cam := dev.connect()
	f.wants("online true")
	sent := s.alice.ping(cam.ID)
	f.wants("delivered", "no_reply")
	again := s.alice.follow(f.last) // while it is away, the late reply comes
	cam.answer(sent.RequestID, `"late"`)
	f.wants("reply 0 true", "answered")
	again.wants("reply 0 true", "answered")
	s.alice.follow(cancelled.id).wants("online true", "delivered", "no_reply", "reply 0 true", "answered")
}

func TestEvents_EndWithTheirToken(t *testing.T) {
	s := startSystem(t)
	file := filepath.Join(s.data, "tokens.yaml")
	late := s.alice
	late.token = strings.TrimSpace(run(t, "signal-device", "token", "create", "--tokens", file, "--client", "late", "--role", "viewer", "--expires", "8s"))
	waitFor(t, startTimeout, "the token to be known", func() bool { return late.call("GET", "/v1/me", nil).status == http.StatusOK })
	f, other := late.follow(""), s.alice.follow("")
	f.wants("resync")
	select {
	case err := <-f.ended:
		if err != nil {
			t.Errorf("it ended with %v, want a proper end", err)
		}
	case <-time.After(startTimeout):
		t.Fatal("the stream outlives its token")
	}
	other.wants("resync")
	select {
	case err := <-other.ended:
		t.Errorf("another client's stream ended too: %v", err)
	default:
	}
}

// After an outage of the broker, whoever is connected to the API is told to look.
func TestEvents_AResyncFollowsAnOutage(t *testing.T) {
	b := startBroker(t)
	tok := newTokens(t, b.data)
	p := start(t, b.serve("--tokens", tok.file)...)
	// From then on there is no resync of the beginning but a new follower's own.
	waitFor(t, startTimeout, "the API to hear of events", func() bool { return strings.Contains(read(t, p.log), "hints flow") })
	f := tok.alice.at(p).follow("")
	f.wants("resync")
	b.kill()
	b.restart()
	waitFor(t, startTimeout, "the outage to be told of", func() bool { return f.next().name == "resync" })
	cam := tok.admin.at(p).newDevice("after").connect()
	waitFor(t, startTimeout, "the camera to be told of", func() bool { return f.next().name == "presence" })
	sent := tok.alice.at(p).ping(cam.ID)
	cam.answer(sent.RequestID, `1`)
	waitFor(t, startTimeout, "the reply to be told of", func() bool { return f.next().name == "reply" })
}

// F13: streams do not hold up the stop, and end as they should.
func TestSIGTERM_EndsStreams(t *testing.T) {
	s := startSystem(t)
	var all []*follower
	for range 10 {
		f := s.alice.follow("")
		f.wants("resync")
		all = append(all, f)
	}
	began := time.Now()
	if code := s.terminate(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s to stop with open streams", took)
	}
	for _, f := range all {
		if err := <-f.ended; err != nil {
			t.Errorf("a stream was cut off: %v", err)
		}
	}
}

// F12: one of two instances is killed while 100 streams and 100 long polls are open. Clients go on at the other one, and
// nothing is lost.
func TestAPIKilled_ClientsGoOnAtAnotherInstance(t *testing.T) {
	const (
		clients = 100
		cameras = 10
	)
	b := startBroker(t)
	tok := newTokens(t, b.data)
	redis := testserver.Redis(t).Addr
	args := b.serve("--tokens", tok.file, "--redis", "redis://"+redis)
	first, second := start(t, args...), start(t, args...)
	alice := tok.alice
	var cams []*connection
	for i := range cameras {
		cams = append(cams, tok.admin.at(first).newDevice(fmt.Sprintf("cam-%d", i)).connect())
	}
	j := newJournal()
	var open, told, resumed atomic.Int64
	var running sync.WaitGroup
	var asked []string
	for i := range clients {
		cam := cams[i%cameras]
		id := alice.at(first).ping(cam.ID).RequestID
		asked = append(asked, id)
		running.Go(func() { // follows its stream, from instance to instance, until its reply is told of
			last := ""
			for _, p := range []*process{first, second} {
				done, err := alice.at(p).followFor(id, &last, func() { open.Add(1) }, func() { resumed.Add(1) })
				if done {
					told.Add(1)
					return
				}
				if p == second {
					t.Errorf("the stream at the second instance ended: %v", err)
				}
			}
		})
		running.Go(func() { // polls, from instance to instance, until it has its reply
			for _, p := range []*process{first, second} {
				ans, err := alice.at(p).pollAgain(pollPath(cam.ID, "60", id))
				if err != nil && p == first {
					continue
				}
				if err != nil {
					t.Errorf("a poll at the second instance: %v", err)
					return
				}
				var got replies
				ans.into(http.StatusOK, &got)
				j.read(t, got.Replies)
				return
			}
		})
	}
	waitFor(t, startTimeout, "streams and polls to be open", func() bool {
		s := &system{process: first}
		return open.Load() == clients && s.metric("signal_device_event_streams") == clients &&
			s.metric("signal_device_http_requests_in_flight") == 2*clients
	})

	answer := func(from, to int) {
		for i := from; i < to; i++ {
			result := fmt.Sprintf(`"for %d"`, i)
			cams[i%cameras].answer(asked[i], result)
			j.ack(asked[i], 0, result)
		}
	}
	answer(0, clients/2)
	first.kill()
	answer(clients/2, clients)
	running.Wait()
	if missing := j.missing(); len(missing) > 0 {
		t.Errorf("%d of %d acknowledged replies were not read, such as %s", len(missing), clients, missing[0])
	}
	t.Logf("%d streams went on at the second instance, %d were told of their reply", resumed.Load(), told.Load())
	if resumed.Load() == 0 {
		t.Error("no stream went on at the second instance: it proves nothing")
	}
}

// followFor follows a stream until it tells of a final reply to the request, or, after a resync that is not the first
// of all, the request has been answered. began is called when the stream is open, and resync at such a resync.
func (a api) followFor(id string, last *string, began, resync func()) (done bool, err error) {
	ctx, stop := context.WithTimeout(a.t.Context(), time.Minute)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, "GET", a.base+"/v1/events", nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	if *last != "" {
		req.Header.Set("Last-Event-ID", *last)
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return false, errors.New(res.Status)
	}
	again := *last != ""
	err = readEvents(res.Body, func(e sse) {
		*last = e.id
		switch {
		case e.name == "resync" && again:
			resync()
			var now struct {
				State string `json:"state"`
			}
			a.call("GET", "/v1/requests/"+id, nil).into(http.StatusOK, &now)
			done = done || now.State == "answered"
		case e.name == "resync":
			began()
		case e.name == "reply" && e.data.RequestID == id && e.data.Final:
			done = true
		}
		if done {
			stop()
		}
	})
	return done, err
}

func TestCommandLine_Watch(t *testing.T) {
	s := startSystem(t)
	t.Setenv("SIGNAL_DEVICE_SERVER", s.admin.base)
	t.Setenv("SIGNAL_DEVICE_TOKEN", s.alice.token)
	cmd := exec.CommandContext(t.Context(), "signal-device", "watch", "--json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, startTimeout, "the stream to be open", func() bool { return s.metric("signal_device_event_streams") == 1 })
	cam := s.admin.newDevice("watched").connect()
	lines := bufio.NewScanner(out)
	next := func() map[string]any {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("no line: %v %s", lines.Err(), said.String())
		}
		var line map[string]any
		decode(t, lines.Text(), &line)
		return line
	}
	passed := func(line map[string]any) map[string]any { // that it was sent may be told, or be overtaken
		if line["state"] == "sent" {
			return next()
		}
		return line
	}
	if got := next(); got["event"] != "presence" || got["device_id"] != cam.ID || got["online"] != true {
		t.Errorf("told %v, want that the camera came", got)
	}
	sent := s.alice.ping(cam.ID)
	if got := passed(next()); got["event"] != "request" || got["request_id"] != sent.RequestID || got["state"] != "delivered" {
		t.Errorf("told %v, want that the request was delivered", got)
	}
	cam.answer(sent.RequestID, `1`)
	if got := next(); got["event"] != "reply" || got["request_id"] != sent.RequestID || got["final"] != true {
		t.Errorf("told %v, want the reply", got)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || said.Len() > 0 {
		t.Errorf("it ended with %v and said %s", err, said.String())
	}
	expectOneReply(t, s.alice.poll(cam.ID, "", sent.RequestID), sent.RequestID, `1`)
}
