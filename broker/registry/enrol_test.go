package registry

import (
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"signaldevice/device"
)

func newTestCode(t testing.TB, r *Registry, c NewCode) string {
	t.Helper()
	code, _, err := r.CreateCode(ctx(t), c)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func TestEnrol_OneCodeOneDevice(t *testing.T) {
	r := alone(t)
	code := newTestCode(t, r, NewCode{Labels: device.Labels{"depot": "north"}})
	key := newKey(t)
	first, err := r.Enrol(ctx(t), code, newCSR(t, key), "cam")
	if err != nil {
		t.Fatal(err)
	}
	if first.Repeated || first.Device.Name != "cam" || first.Device.Labels["depot"] != "north" || !admits(t, r, first.Certificate, first.Device.ID) {
		t.Fatalf("enrolled %+v", first.Device.Device)
	}
	again, err := r.Enrol(ctx(t), code, newCSR(t, key), "another-name")
	if err != nil || !again.Repeated || again.Device.ID != first.Device.ID || again.Certificate != first.Certificate {
		t.Fatalf("the same code and key: %+v, %v", again, err)
	}
	_, err = r.Enrol(ctx(t), code, newCSR(t, newKey(t)), "")
	wantKind(t, "another key", err, device.InvalidCode)
	if r.Count() != 1 {
		t.Errorf("%d devices", r.Count())
	}
}

func TestEnrol_CodeIsInvalidOnceItsCertificateOrDeviceIsGone(t *testing.T) {
	tests := map[string]struct {
		then func(t *testing.T, r *Registry, g Registration)
		kind device.Kind
	}{
		"nothing happened": {func(*testing.T, *Registry, Registration) {}, device.OK},
		"the device was renamed": {func(t *testing.T, r *Registry, g Registration) {
			name := "new"
			if _, err := r.Update(ctx(t), g.Device.ID, Patch{Name: &name}); err != nil {
				t.Fatal(err)
			}
		}, device.OK},
		"the certificate was rotated, both valid": {func(t *testing.T, r *Registry, g Registration) {
			if _, err := r.AddCertificate(ctx(t), g.Device.ID, newCert(t), ""); err != nil {
				t.Fatal(err)
			}
		}, device.OK},
		"the certificate was revoked": {func(t *testing.T, r *Registry, g Registration) {
			if err := r.RemoveCertificate(ctx(t), g.Device.ID, g.Device.Certificates[0].Fingerprint); err != nil {
				t.Fatal(err)
			}
		}, device.InvalidCode},
		"the device was deleted": {func(t *testing.T, r *Registry, g Registration) {
			if err := r.Delete(ctx(t), g.Device.ID); err != nil {
				t.Fatal(err)
			}
		}, device.InvalidCode},
		"the device was deleted and its id is used again": {func(t *testing.T, r *Registry, g Registration) {
			if err := r.Delete(ctx(t), g.Device.ID); err != nil {
				t.Fatal(err)
			}
			create(t, r, NewDevice{ID: g.Device.ID, Certificates: []string{g.Certificate}})
		}, device.InvalidCode},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			js := connect(t, startServer(t, t.TempDir()))
			id := openIdentity(t)
			r := node(t, Config{JetStream: js, Identity: id})
			code, key := newTestCode(t, r, NewCode{}), newKey(t)
			first, err := r.Enrol(ctx(t), code, newCSR(t, key), "")
			if err != nil {
				t.Fatal(err)
			}
			tt.then(t, r, first)
			_, err = r.Enrol(ctx(t), code, newCSR(t, key), "")
			wantKind(t, "on this node", err, tt.kind)
			_, err = node(t, Config{JetStream: js, Identity: id}).Enrol(ctx(t), code, newCSR(t, key), "")
			wantKind(t, "on a node that read the stream anew", err, tt.kind)
		})
	}
}

func TestEnrol_RefusedIsNotSpent(t *testing.T) {
	r := alone(t)
	create(t, r, NewDevice{Name: "taken"})
	code, key := newTestCode(t, r, NewCode{}), newKey(t)
	tests := map[string]struct {
		code, csr, name string
		kind            device.Kind
	}{
		"a bad CSR":       {code, "x", "", device.InvalidCSR},
		"a bad name":      {code, newCSR(t, key), "a b", device.Invalid},
		"a taken name":    {code, newCSR(t, key), "taken", device.DeviceExists},
		"no code":         {"", newCSR(t, key), "", device.InvalidCode},
		"a wrong code":    {code[:len(code)-1] + "-", newCSR(t, key), "", device.InvalidCode},
		"a code too long": {strings.Repeat("x", 1<<20), newCSR(t, key), "", device.InvalidCode},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := r.Enrol(ctx(t), tt.code, tt.csr, tt.name)
			wantKind(t, "Enrol", err, tt.kind)
		})
	}
	if r.Count() != 1 {
		t.Fatalf("%d devices", r.Count())
	}
	if got, err := r.Enrol(ctx(t), code, newCSR(t, key), ""); err != nil || got.Repeated {
		t.Errorf("the code is spent: %+v, %v", got, err)
	}
}

func TestEnrol_TheCodesNameWins(t *testing.T) {
	r := alone(t)
	got, err := r.Enrol(ctx(t), newTestCode(t, r, NewCode{Name: "from-code"}), newCSR(t, newKey(t)), "from-camera")
	if err != nil || got.Device.Name != "from-code" {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = r.Enrol(ctx(t), newTestCode(t, r, NewCode{}), newCSR(t, newKey(t)), "")
	if err != nil || got.Device.Name != string(got.Device.ID) {
		t.Errorf("without any name: %+v, %v", got, err)
	}
}

func TestEnrol_CodesExpireByTheClock(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	r := node(t, Config{JetStream: connect(t, startServer(t, t.TempDir())), Clock: clock, FreshFor: 24 * time.Hour, CheckEvery: time.Hour})
	unused, used, key := newTestCode(t, r, NewCode{}), newTestCode(t, r, NewCode{}), newKey(t)
	if _, err := r.Enrol(ctx(t), used, newCSR(t, key), ""); err != nil {
		t.Fatal(err)
	}
	set := func(d time.Duration) { mu.Lock(); now = now.Add(d); mu.Unlock() }
	set(time.Hour)
	if got, err := r.Enrol(ctx(t), used, newCSR(t, key), ""); err != nil || !got.Repeated {
		t.Errorf("in its last moment: %+v, %v", got, err)
	}
	set(time.Millisecond)
	for _, code := range []string{used, unused} {
		_, err := r.Enrol(ctx(t), code, newCSR(t, key), "")
		wantKind(t, "after its expiry", err, device.InvalidCode)
	}
	newTestCode(t, r, NewCode{})
	if len(r.table.codes) != 1 || len(r.table.spent) != 0 {
		t.Errorf("%d codes and %d spent ones in memory, want 1 and 0", len(r.table.codes), len(r.table.spent))
	}
}

func TestCreateCode_Limits(t *testing.T) {
	r := node(t, Config{JetStream: connect(t, startServer(t, t.TempDir())), MaxCodes: 4})
	tests := []struct {
		name string
		code NewCode
		kind device.Kind
	}{
		{"as built", NewCode{}, device.OK},
		{"1 second", NewCode{ExpiresIn: time.Second}, device.OK},
		{"less", NewCode{ExpiresIn: time.Second - 1}, device.Invalid},
		{"negative", NewCode{ExpiresIn: -time.Second}, device.Invalid},
		{"30 days", NewCode{ExpiresIn: 30 * 24 * time.Hour}, device.OK},
		{"more", NewCode{ExpiresIn: 30*24*time.Hour + 1}, device.Invalid},
		{"a bad name", NewCode{Name: "a b"}, device.Invalid},
		{"a bad label", NewCode{Labels: device.Labels{"A": ""}}, device.Invalid},
		{"the fourth", NewCode{ExpiresIn: time.Minute}, device.OK},
	}
	for _, tt := range tests {
		code, expiresAt, err := r.CreateCode(ctx(t), tt.code)
		wantKind(t, tt.name, err, tt.kind)
		if err != nil {
			continue
		}
		want := tt.code.ExpiresIn
		if want == 0 {
			want = time.Hour
		}
		if left := time.Until(expiresAt); left > want || left < want-5*time.Second {
			t.Errorf("%s: expires in %v, want %v", tt.name, left, want)
		}
		if !regexp.MustCompile(`^sde1_[a-z2-7]{32}$`).MatchString(code) { // 32 characters of 5 bits
			t.Errorf("%s: code %q", tt.name, code)
		}
	}
}

func TestCreateCode_UnusedOnesAreBounded(t *testing.T) {
	r := node(t, Config{JetStream: connect(t, startServer(t, t.TempDir())), MaxCodes: 2})
	code := newTestCode(t, r, NewCode{})
	newTestCode(t, r, NewCode{})
	_, _, err := r.CreateCode(ctx(t), NewCode{})
	wantKind(t, "one too many", err, device.RateLimited)
	if _, err := r.Enrol(ctx(t), code, newCSR(t, newKey(t)), ""); err != nil {
		t.Fatal(err)
	}
	newTestCode(t, r, NewCode{})
}

// The code itself is nowhere in the stream.
func TestCreateCode_OnlyTheHashIsKept(t *testing.T) {
	js := connect(t, startServer(t, t.TempDir()))
	r := node(t, Config{JetStream: js})
	code := newTestCode(t, r, NewCode{ExpiresIn: 90 * time.Minute})
	if _, err := r.Enrol(ctx(t), code, newCSR(t, newKey(t)), ""); err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx(t), Stream)
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		msg, err := stream.GetMsg(ctx(t), seq)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(msg.Subject+string(msg.Data), code[5:]) {
			t.Errorf("message %d holds the code", seq)
		}
		if strings.HasPrefix(msg.Subject, codePrefix) && msg.Header.Get(jetstream.MsgTTLHeader) != "1h30m0s" {
			t.Errorf("the code's message has TTL %q", msg.Header.Get(jetstream.MsgTTLHeader))
		}
	}
}
