package broker

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"signaldevice/device"
)

// KeyFile is the file of the data folder that holds the keys that sign request ids, oldest first: one line each, key id, secret in base64, time of making.
// The nodes of a cluster share it.
const KeyFile = "request-id.keys"

// keepKey is how long a key that no longer signs is accepted: longer than any reply can wait.
const keepKey = 60 * 24 * time.Hour

type storedKey struct {
	device.Key
	made time.Time
}

// openKeyRing reads the keys of the data folder, and makes the first one.
func openKeyRing(dir string) (*device.KeyRing, error) {
	keys, err := readKeys(dir)
	if errors.Is(err, fs.ErrNotExist) {
		keys = []storedKey{{device.NewKey(1), time.Now()}}
		err = writeKeys(dir, keys)
	}
	if err != nil {
		return nil, err
	}
	return ring(keys)
}

func ring(keys []storedKey) (*device.KeyRing, error) {
	plain := make([]device.Key, len(keys))
	for i, k := range keys {
		plain[i] = k.Key
	}
	return device.NewKeyRing(plain...)
}

// RotateKey adds a key to the data folder; the broker signs with it from its next start. Keys that have not signed for
// 60 days are taken out.
func RotateKey(dir string, now time.Time) error {
	keys, err := readKeys(dir)
	if err != nil {
		return err
	}
	next := storedKey{device.NewKey(keys[len(keys)-1].ID + 1), now}
	var kept []storedKey
	for i, k := range keys {
		replaced := now
		if i+1 < len(keys) {
			replaced = keys[i+1].made
		}
		if now.Sub(replaced) < keepKey {
			kept = append(kept, k)
		}
	}
	keys = append(kept, next)
	if _, err := ring(keys); err != nil {
		return err
	}
	return writeKeys(dir, keys)
}

func readKeys(dir string) ([]storedKey, error) {
	path := filepath.Join(dir, KeyFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("request id keys: %w", err)
	}
	var keys []storedKey
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		var k storedKey
		var secret, made string
		_, err := fmt.Sscan(lines.Text(), &k.ID, &secret, &made)
		if err == nil {
			k.Secret, err = base64.StdEncoding.DecodeString(secret)
		}
		if err == nil {
			k.made, err = time.Parse(time.RFC3339, made)
		}
		if err != nil {
			return nil, fmt.Errorf("request id keys: line %d of %s is damaged", len(keys)+1, path)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("request id keys: %s is empty; restore it, or remove it and lose the replies that wait", path)
	}
	return keys, nil
}

// writeKeys replaces the file in one step that survives a crash.
func writeKeys(dir string, keys []storedKey) error {
	var b bytes.Buffer
	for _, k := range keys {
		fmt.Fprintln(&b, k.ID, base64.StdEncoding.EncodeToString(k.Secret), k.made.UTC().Format(time.RFC3339))
	}
	temporary := filepath.Join(dir, KeyFile+".new")
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("request id keys: %w", err)
	}
	_, err = f.Write(b.Bytes())
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(temporary, filepath.Join(dir, KeyFile))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("request id keys: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
