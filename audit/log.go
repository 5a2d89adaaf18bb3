package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// Log is the file that audit lines go to. Each line is one write to its end, so several processes may share it.
type Log struct {
	path string // "" where it is not a file of its own

	mu   sync.Mutex
	out  io.Writer
	torn bool // a line was cut short, as by a full disk; the next one must not stick to it
}

// Open returns a log that appends to the file, which is made if need be, for its owner alone.
func Open(path string) (*Log, error) {
	file, err := openFile(path)
	if err != nil {
		return nil, err
	}
	return &Log{path: path, out: file}, nil
}

// NewLog returns a log that writes to w, such as standard error. Reopen and Close leave w alone.
func NewLog(w io.Writer) *Log { return &Log{out: w} }

func openFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return file, nil
}

// Reopen goes on in a new file of the same name, once the old one was moved away. If there can be none, the old one
// stays in use.
func (l *Log) Reopen() error {
	if l.path == "" {
		return nil
	}
	file, err := openFile(l.path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	old := l.out
	l.out, l.torn = file, false
	l.mu.Unlock()
	if err := old.(*os.File).Close(); err != nil {
		return fmt.Errorf("audit log: close: %w", err)
	}
	return nil
}

// Close closes the file. Calls that are audited after it are refused.
func (l *Log) Close() error {
	if l.path == "" {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.out.(*os.File).Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("audit log: close: %w", err)
	}
	return nil
}

// write appends one line, with its newline.
func (l *Log) write(line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := l.out.Write(line)
	if err != nil {
		l.torn = l.torn || n > 0
		return fmt.Errorf("audit log: %w", err)
	}
	l.torn = false
	return nil
}
