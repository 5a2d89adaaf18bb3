package broker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signaldevice/device"
)

func TestRotateKey_OldIDsStayGoodUntilTheirKeyIsOld(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	first, err := openKeyRing(dir)
	if err != nil {
		t.Fatal(err)
	}
	id := first.Mint(now, device.MailboxOf("alice"), "cam-1", now)
	for _, step := range []struct {
		name  string
		after time.Duration
		good  bool
	}{
		{"rotated once", 0, true},
		{"rotated again a day before its time is over", 59 * 24 * time.Hour, true},
		{"rotated again after its time", 61 * 24 * time.Hour, false},
	} {
		if err := RotateKey(dir, now.Add(step.after)); err != nil {
			t.Fatal(err)
		}
		ring, err := openKeyRing(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ring.Verify(id, "cam-1"); (err == nil) != step.good {
			t.Errorf("%s: %v", step.name, err)
		}
		next := ring.Mint(now, device.MailboxOf("alice"), "cam-1", now)
		if _, err := first.Verify(next, "cam-1"); err == nil {
			t.Errorf("%s: the old key still signs", step.name)
		}
	}
}

func TestOpenKeyRing_KeepsItsKeys(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	first, err := openKeyRing(dir)
	if err != nil {
		t.Fatal(err)
	}
	id := first.Mint(now, device.Mailbox{}, "cam-1", now)
	again, err := openKeyRing(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Verify(id, "cam-1"); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(dir, KeyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// A damaged file is never replaced: the replies that wait could no longer be told apart from forged ones.
func TestOpenKeyRing_DamagedFile(t *testing.T) {
	good := "1 " + strings.Repeat("A", 43) + "= 2026-11-24T08:00:00Z\n"
	tests := map[string]struct {
		text string
		ok   bool
	}{
		"as written":           {good, true},
		"an empty line in it":  {"\n" + good, true},
		"empty":                {"", false},
		"no time":              {"1 " + strings.Repeat("A", 43) + "=\n", false},
		"a secret too short":   {"1 AAAA 2026-11-24T08:00:00Z\n", false},
		"a secret not base64":  {"1 ???? 2026-11-24T08:00:00Z\n", false},
		"a key id over 255":    {strings.Replace(good, "1 ", "256 ", 1), false},
		"the same key id":      {good + good, false},
		"cut in the middle":    {good[:20], false},
		"something else there": {"hello\n", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, KeyFile)
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := openKeyRing(dir); (err == nil) != tt.ok {
				t.Errorf("error %v, want ok %v", err, tt.ok)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != tt.text {
				t.Error("the file was changed")
			}
		})
	}
}
