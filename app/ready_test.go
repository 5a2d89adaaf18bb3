package app

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestReady_WriteIsWholeAndPrivate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ready.json")
	if err := os.WriteFile(path, []byte("of the start before"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := Ready{
		HTTP: "127.0.0.1:8080", CA: "/data/ca.pem", RegistryID: "default",
		Service: &KeyPair{Cert: "/data/service.pem", Key: "/data/service.key"},
		Tokens:  map[string]string{"admin": "t0"},
	}

	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}

	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got Ready
	if err := json.Unmarshal(data, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read back %+v, %v; want %+v", got, err, want)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v; want 0600", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("the folder holds %d files, want the ready file alone", len(entries))
	}
}

func TestReady_WriteNamesAFolderThatIsNotThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nowhere", "ready.json")
	if err := (Ready{}).Write(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("answered %v, want that the folder does not exist", err)
	}
}

func TestDialable(t *testing.T) {
	tests := map[string]struct{ listens, want string }{
		"loopback stays":            {"127.0.0.1:80", "127.0.0.1:80"},
		"IPv6 loopback stays":       {"[::1]:80", "[::1]:80"},
		"everywhere becomes a host": {"0.0.0.0:80", "127.0.0.1:80"},
		"everywhere in IPv6":        {"[::]:80", "127.0.0.1:80"},
		"an outer address stays":    {"192.0.2.7:80", "192.0.2.7:80"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			addr, err := net.ResolveTCPAddr("tcp", tt.listens)
			if err != nil {
				t.Fatal(err)
			}
			if got := dialable(addr); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
