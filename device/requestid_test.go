package device

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

var (
	now   = time.UnixMilli(1_795_000_000_123)
	later = now.Add(30 * time.Second)
	alice = MailboxOf("alice")
)

func newRing(t testing.TB, ids ...byte) *KeyRing {
	t.Helper()
	keys := make([]Key, len(ids))
	for i, id := range ids {
		keys[i] = NewKey(id)
	}
	ring, err := NewKeyRing(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func TestRequestID_SaysWhatItWasMintedWith(t *testing.T) {
	ring := newRing(t, 7)
	id := ring.Mint(now, alice, "cam-1", later)
	if len(id) != RequestIDLen || RequestIDLen >= 120 || !strings.HasPrefix(string(id), RequestIDPrefix) {
		t.Errorf("shape of %q", id)
	}
	verified, err := ring.Verify(id, "cam-1")
	if err != nil {
		t.Fatal(err)
	}
	read, err := id.Claims()
	if err != nil || read != verified {
		t.Errorf("read without verifying: %v, %v", read, err)
	}
	if verified.KeyID != 7 || verified.Mailbox != alice || !verified.ReplyBy.Equal(later) || !verified.UUID.Time().Equal(now) {
		t.Errorf("claims %+v", verified)
	}
	if version, variant := verified.UUID[6]>>4, verified.UUID[8]>>6; version != 7 || variant != 2 { // RFC 9562
		t.Errorf("UUID of version %d, variant %d", version, variant)
	}
}

func TestRequestID_EachIsAnother(t *testing.T) {
	ring, seen := newRing(t, 1), map[RequestID]bool{}
	for range 10_000 {
		id := ring.Mint(now, alice, "cam-1", later)
		if seen[id] {
			t.Fatal("the same id twice")
		}
		seen[id] = true
	}
}

func TestRequestID_UUIDsSortByTime(t *testing.T) {
	ring := newRing(t, 1)
	previous := ""
	for i := range 100 {
		c, err := ring.Mint(now.Add(time.Duration(i)*time.Millisecond), alice, "cam-1", later).Claims()
		if err != nil {
			t.Fatal(err)
		}
		if text := c.UUID.String(); text <= previous {
			t.Fatalf("%s after %s", text, previous)
		} else {
			previous = text
		}
	}
}

// I3: no bent id, and none of another device, is anybody's.
func TestRequestID_OneBentCharacterAnywhere(t *testing.T) {
	ring := newRing(t, 1)
	id := ring.Mint(now, alice, "cam-1", later)
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range id {
		for _, c := range []byte(alphabet) {
			if id[i] == c {
				continue
			}
			bent := []byte(id)
			bent[i] = c
			if _, err := ring.Verify(RequestID(bent), "cam-1"); !errors.Is(err, ErrNotRequestID) {
				t.Fatalf("character %d changed from %c to %c was taken", i, id[i], c)
			}
		}
	}
}

func TestRequestID_WhatIsNone(t *testing.T) {
	ring := newRing(t, 1)
	id := string(ring.Mint(now, alice, "cam-1", later))
	foreign := string(newRing(t, 1).Mint(now, alice, "cam-1", later))
	tests := map[string]struct {
		id  string
		dev ID
		ok  bool
	}{
		"as minted":                       {id, "cam-1", true},
		"of another device":               {id, "cam-2", false},
		"of a device that begins like it": {id, "cam-10", false},
		"of no device":                    {id, "", false},
		"empty":                           {"", "cam-1", false},
		"one character short":             {id[:len(id)-1], "cam-1", false},
		"one character more":              {id + "A", "cam-1", false},
		"another prefix":                  {"sdr2_" + id[5:], "cam-1", false},
		"with padding":                    {id[:len(id)-1] + "=", "cam-1", false},
		"with a line break inside":        {id[:20] + "\n" + id[21:], "cam-1", false},
		"signed by another key":           {foreign, "cam-1", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := ring.Verify(RequestID(tt.id), tt.dev); (err == nil) != tt.ok {
				t.Errorf("error %v, want ok %v", err, tt.ok)
			}
		})
	}
}

func TestKeyRing_Rotation(t *testing.T) {
	first, second := NewKey(1), NewKey(2)
	old, err := NewKeyRing(first)
	if err != nil {
		t.Fatal(err)
	}
	both, err := NewKeyRing(first, second)
	if err != nil {
		t.Fatal(err)
	}
	only, err := NewKeyRing(second)
	if err != nil {
		t.Fatal(err)
	}
	before, after := old.Mint(now, alice, "cam-1", later), both.Mint(now, alice, "cam-1", later)
	tests := map[string]struct {
		ring *KeyRing
		id   RequestID
		ok   bool
	}{
		"old id, both keys":      {both, before, true},
		"new id, both keys":      {both, after, true},
		"new id, new key alone":  {only, after, true},
		"old id, old key gone":   {only, before, false},
		"new id, before the key": {old, after, false},
	}
	for name, tt := range tests {
		if _, err := tt.ring.Verify(tt.id, "cam-1"); (err == nil) != tt.ok {
			t.Errorf("%s: error %v, want ok %v", name, err, tt.ok)
		}
	}
}

// A ring does not change with the slices that it was made of.
func TestKeyRing_IsItsOwn(t *testing.T) {
	keys := []Key{NewKey(1)}
	ring, err := NewKeyRing(keys...)
	if err != nil {
		t.Fatal(err)
	}
	id := ring.Mint(now, alice, "cam-1", later)
	keys[0].Secret[0]++
	if _, err := ring.Verify(id, "cam-1"); err != nil {
		t.Error(err)
	}
}

// Times outside what 48 bits of milliseconds hold do not break the token.
func TestRequestID_TimesAtTheirLimits(t *testing.T) {
	ring := newRing(t, 255)
	for name, tt := range map[string]struct{ at, want int64 }{
		"the first moment": {0, 0}, "before it": {-1, 0}, "the last one": {1<<48 - 1, 1<<48 - 1},
	} {
		id := ring.Mint(time.UnixMilli(tt.at), alice, "cam-1", time.UnixMilli(tt.at))
		c, err := ring.Verify(id, "cam-1")
		if err != nil || c.ReplyBy.UnixMilli() != tt.want || c.UUID.Time().UnixMilli() != tt.want {
			t.Errorf("%s: %v, %v, %v", name, c.ReplyBy, c.UUID.Time(), err)
		}
	}
}

func TestNewKeyRing_Refused(t *testing.T) {
	secret := func(n int) []byte { return bytes.Repeat([]byte{1}, n) }
	tests := map[string]struct {
		keys []Key
		ok   bool
	}{
		"one key":                  {[]Key{{1, secret(32)}}, true},
		"two keys":                 {[]Key{{1, secret(32)}, {2, secret(40)}}, true},
		"none":                     {nil, false},
		"a secret of 31 bytes":     {[]Key{{1, secret(31)}}, false},
		"two keys with one number": {[]Key{{1, secret(32)}, {1, secret(33)}}, false},
	}
	for name, tt := range tests {
		if _, err := NewKeyRing(tt.keys...); (err == nil) != tt.ok {
			t.Errorf("%s: error %v, want ok %v", name, err, tt.ok)
		}
	}
}

func TestFindRequestID(t *testing.T) {
	id := newRing(t, 1).Mint(now, alice, "cam-1", later)
	other := newRing(t, 1).Mint(now, alice, "cam-1", later)
	tests := map[string]struct {
		data string
		want RequestID
	}{
		"alone":                              {string(id), id},
		"in JSON":                            {fmt.Sprintf(`{"request_id":%q}`, id), id},
		"in a line of text":                  {"OK " + string(id) + " 42\r\n", id},
		"right behind other letters":         {"x" + string(id), id},
		"right before other letters":         {string(id) + "zzz", id},
		"among bytes that are no text":       {"\x00\xff" + string(id) + "\x80", id},
		"two of them: the first":             {string(id) + " " + string(other), id},
		"behind a prefix that leads nowhere": {RequestIDPrefix + "… " + string(id), id},
		"behind half an id":                  {string(id[:40]) + " " + string(id), id},
		"cut off at the end":                 {string(id[:len(id)-1]), ""},
		"a prefix alone":                     {RequestIDPrefix, ""},
		"nothing":                            {"", ""},
		"with a space inside":                {string(id[:30]) + " " + string(id[30:]), ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := FindRequestID([]byte(tt.data))
			if got != tt.want || ok != (tt.want != "") {
				t.Errorf("got %q, %v", got, ok)
			}
		})
	}
}

// Whatever bytes a device sends, what is found has the shape of an id and stands in the bytes.
func FuzzFindRequestID(f *testing.F) {
	id := newRing(f, 1).Mint(now, alice, "cam-1", later)
	f.Add([]byte(id))
	f.Add([]byte("OK " + string(id)))
	f.Add([]byte(RequestIDPrefix + RequestIDPrefix + string(id)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		got, ok := FindRequestID(data)
		if !ok {
			return
		}
		if len(got) != RequestIDLen || !strings.HasPrefix(string(got), RequestIDPrefix) || !bytes.Contains(data, []byte(got)) {
			t.Errorf("found %q in %q", got, data)
		}
	})
}

// Nothing but what was minted verifies.
func FuzzVerify(f *testing.F) {
	ring := newRing(f, 1)
	id := ring.Mint(now, alice, "cam-1", later)
	f.Add(string(id), "cam-1")
	f.Add(string(id), "cam-2")
	f.Add(string(id[:len(id)-1])+"_", "cam-1")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, text, dev string) {
		if _, err := ring.Verify(RequestID(text), ID(dev)); err == nil && (text != string(id) || dev != "cam-1") {
			t.Errorf("%q of %q was taken", text, dev)
		}
	})
}

func BenchmarkRequestID(b *testing.B) {
	ring := newRing(b, 1)
	id := ring.Mint(now, alice, "cam-1", later)
	text := append(bytes.Repeat([]byte("x"), 950), id...)
	b.Run("mint", func(b *testing.B) {
		for b.Loop() {
			ring.Mint(now, alice, "cam-1", later)
		}
	})
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if _, err := ring.Verify(id, "cam-1"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("find in 1 KB", func(b *testing.B) {
		for b.Loop() {
			if _, ok := FindRequestID(text); !ok {
				b.Fatal("not found")
			}
		}
	})
}
