package configfile

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Config describes a file to keep up with.
type Config[T any] struct {
	Path     string        // "": Default is the one version that there is
	Default  []byte        // used where Path is empty, and only there
	MaxBytes int           // a larger file is bad
	Optional bool          // a missing file is parsed as no bytes at all, instead of being bad
	Private  bool          // warn where others than the owner may read or write the file
	Every    time.Duration // how often Watch looks for a change; 0: 1 s

	// Parse makes a version out of the file's bytes. It is never called twice at once.
	Parse func(data []byte) (*T, error)
	// Reloaded, if not nil, is told of each version that was read after the first: nil, or what is wrong with it. It
	// must not call the Live.
	Reloaded func(error)
	Log      *slog.Logger
}

// Live holds the newest good version of a file.
type Live[T any] struct {
	config  Config[T]
	current atomic.Pointer[T]

	mu      sync.Mutex // serialises reads of the file
	seen    stamp
	settled bool   // two looks in a row saw the same stamp
	failure string // what was last wrong with reaching the file; "" nothing
}

// stamp tells one content of a file from another.
type stamp struct {
	info fs.FileInfo // nil: there is no file
	sum  [sha256.Size]byte
}

// Open reads the file. An error says what is wrong with it and means that there is no Live.
func Open[T any](c Config[T]) (*Live[T], error) {
	if c.Every == 0 {
		c.Every = time.Second
	}
	l := &Live[T]{config: c}
	if c.Path == "" {
		if err := l.take(c.Default, stamp{}); err != nil {
			return nil, err
		}
		return l, nil
	}
	data, now, err := l.read()
	if err != nil {
		return nil, err
	}
	if err := l.take(data, now); err != nil {
		return nil, err
	}
	return l, nil
}

// Current returns the newest good version. It is shared: nobody may change it.
func (l *Live[T]) Current() *T { return l.current.Load() }

// Reload reads the file now. When it returns an error the version before stays.
func (l *Live[T]) Reload() error {
	if l.config.Path == "" {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	data, now, err := l.read()
	if err == nil {
		err = l.take(data, now)
	}
	l.report(err)
	return err
}

// Watch reads the file again whenever it changed, until ctx ends. What is wrong with a version is logged once.
func (l *Live[T]) Watch(ctx context.Context) {
	if l.config.Path == "" {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(l.config.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.look()
		}
	}
}

// look reads the file where its stamp says that it may have changed, and once more after each change: a second write
// within one tick of the file system's clock leaves size and time as they were.
func (l *Live[T]) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	info, err := os.Stat(l.config.Path)
	if err == nil && l.settled && sameFile(info, l.seen.info) {
		return
	}
	data, now, err := l.read()
	switch {
	case err != nil:
		l.unreachable(err)
		return
	case l.failure == "" && now.sum == l.seen.sum && (now.info == nil) == (l.seen.info == nil):
		l.settled = sameFile(now.info, l.seen.info)
		l.seen.info = now.info
		return
	}
	err = l.take(data, now)
	l.report(err)
	if err != nil {
		l.config.Log.Error("configuration file is bad, the version before stays", "path", l.config.Path, "error", err)
		return
	}
	l.config.Log.Info("configuration file was read again", "path", l.config.Path)
}

// unreachable tells once of a file that cannot be read at all.
func (l *Live[T]) unreachable(err error) {
	if err.Error() == l.failure {
		return
	}
	l.failure = err.Error()
	l.report(err)
	l.config.Log.Error("configuration file cannot be read, the version before stays", "path", l.config.Path, "error", err)
}

func (l *Live[T]) report(err error) {
	if l.config.Reloaded != nil {
		l.config.Reloaded(err)
	}
}

// take parses a version and makes it the current one, if it is good. Either way it has been seen.
func (l *Live[T]) take(data []byte, now stamp) error {
	l.seen, l.settled, l.failure = now, false, ""
	version, err := l.config.Parse(data)
	if err != nil {
		return fmt.Errorf("read %s: %w", l.config.Path, err)
	}
	l.current.Store(version)
	if l.config.Private && now.info != nil && now.info.Mode().Perm()&0o077 != 0 {
		l.config.Log.Warn("file should be open to its owner alone (mode 0600)", "path", l.config.Path, "mode", now.info.Mode().Perm().String())
	}
	return nil
}

// read returns the file's bytes and the stamp that was true before they were read, so that a change in between is seen
// by the next look.
func (l *Live[T]) read() ([]byte, stamp, error) {
	info, err := os.Stat(l.config.Path)
	if l.config.Optional && errors.Is(err, fs.ErrNotExist) {
		return nil, stamp{sum: sha256.Sum256(nil)}, nil
	}
	if err != nil {
		return nil, stamp{}, err
	}
	if !info.Mode().IsRegular() {
		return nil, stamp{}, fmt.Errorf("read %s: not a regular file", l.config.Path)
	}
	f, err := os.Open(l.config.Path)
	if err != nil {
		return nil, stamp{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(l.config.MaxBytes)+1))
	if err != nil {
		return nil, stamp{}, fmt.Errorf("read %s: %w", l.config.Path, err)
	}
	if len(data) > l.config.MaxBytes {
		return nil, stamp{}, fmt.Errorf("read %s: the file is larger than %d bytes", l.config.Path, l.config.MaxBytes)
	}
	return data, stamp{info: info, sum: sha256.Sum256(data)}, nil
}

// sameFile also tells an old file from a new one that was renamed over it.
func sameFile(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && os.SameFile(a, b)
}
