package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"signaldevice/catalogue/configfile"
)

// Limits of what is read to reach a server.
const (
	maxServersBytes = 1 << 20
	maxTokenBytes   = 4 << 10
)

// serversFile is the file of named servers. It lives on the machine of whoever types, and holds secrets.
type serversFile struct {
	Servers map[string]namedServer `yaml:"servers"`
}

type namedServer struct {
	URL       string `yaml:"url"`
	Token     string `yaml:"token"`
	TokenFile string `yaml:"token_file"` // relative to the folder of the file
}

// resolve returns URL and token of the server that the flags mean: it is given by URL, or by its name in the file. A
// named server that has a token is called with that one and no other: a token in the environment may be another
// server's.
func (f clientFlags) resolve(log *slog.Logger) (server, token string, err error) {
	named, err := f.find(log)
	if err != nil {
		return "", "", err
	}
	token = named.Token
	if named.TokenFile != "" {
		token, err = readTokenFile(named.TokenFile, log)
	}
	return named.URL, cmp.Or(token, f.Token), err
}

// find returns the server that the flags mean, which has no token where it is given by URL. Its token file is not read.
func (f serverFlags) find(log *slog.Logger) (namedServer, error) {
	if strings.Contains(f.Server, "://") {
		return namedServer{URL: f.Server}, checkURL(f.Server)
	}
	path, err := f.configPath()
	if err != nil {
		return namedServer{}, err
	}
	named, err := readServer(path, f.Server, log)
	if named.TokenFile != "" && !filepath.IsAbs(named.TokenFile) {
		named.TokenFile = filepath.Join(filepath.Dir(path), named.TokenFile)
	}
	return named, err
}

func (f serverFlags) configPath() (string, error) {
	if f.Config != "" {
		return f.Config, nil
	}
	folder, err := os.UserConfigDir()
	if err != nil {
		return "", usagef("--server must be a URL such as http://127.0.0.1:8080, or --config must say where servers have names: %w", err)
	}
	return filepath.Join(folder, "signal-device", "servers.yaml"), nil
}

// readServer finds a server by its name.
func readServer(path, name string, log *slog.Logger) (namedServer, error) {
	file, err := readServers(path, log)
	if errors.Is(err, fs.ErrNotExist) {
		return namedServer{}, usagef("--server must be a URL such as http://127.0.0.1:8080, or a name: there is no file of names, %s", path)
	}
	if err != nil {
		return namedServer{}, err
	}
	server, ok := file.Servers[name]
	if !ok {
		known := slices.Sorted(maps.Keys(file.Servers))
		return namedServer{}, usagef("--server must be a URL such as http://127.0.0.1:8080, or a name of %s, which has no %q but %s",
			path, name, strings.Join(known, ", "))
	}
	if err := server.check(); err != nil {
		return namedServer{}, fmt.Errorf("read %s: %s: %w", path, name, err)
	}
	return server, nil
}

func readServers(path string, log *slog.Logger) (file serversFile, err error) {
	data, err := readPrivate(path, maxServersBytes, log)
	if err != nil {
		return serversFile{}, err
	}
	if err := configfile.Decode(data, maxServersBytes, &file); err != nil {
		return serversFile{}, fmt.Errorf("read %s: %w", path, err)
	}
	return file, nil
}

func (s namedServer) check() error {
	if checkURL(s.URL) != nil {
		return errors.New("url must be one such as https://cameras.example.org")
	}
	if s.Token != "" && s.TokenFile != "" {
		return errors.New("either token or token_file")
	}
	return nil
}

func checkURL(text string) error {
	base, err := url.Parse(text)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return usagef("--server must be a URL such as http://127.0.0.1:8080, or the name of one")
	}
	return nil
}

// readTokenFile reads the one token that a file holds.
func readTokenFile(path string, log *slog.Logger) (string, error) {
	data, err := readPrivate(path, maxTokenBytes, log)
	if err != nil {
		return "", err
	}
	token := bytes.TrimSpace(data)
	if len(token) == 0 || bytes.ContainsAny(token, " \t\r\n") {
		return "", fmt.Errorf("read %s: it must hold one token and nothing else", path)
	}
	return string(token), nil
}

// readPrivate reads a file with secrets, and warns where others may read or write it.
func readPrivate(path string, limit int64, log *slog.Logger) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		log.Warn("file should be open to its owner alone (mode 0600)", "path", path, "mode", info.Mode().Perm().String())
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: the file is larger than %d bytes", path, limit)
	}
	return data, nil
}
