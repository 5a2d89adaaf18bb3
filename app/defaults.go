package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"signaldevice/access"
	"signaldevice/catalogue"
)

// Files in a data folder.
const (
	commandsFile = "commands.yaml"
	rolesFile    = "roles.yaml"
	tokensFile   = "tokens.yaml"
)

// writeDefaults puts the default commands and roles into a data folder, to be edited. A file that is there stays as it
// is.
func writeDefaults(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	for name, content := range map[string][]byte{commandsFile: catalogue.Default(), rolesFile: access.DefaultRoles()} {
		if err := writeOnce(filepath.Join(dir, name), content); err != nil {
			return fmt.Errorf("data folder: %w", err)
		}
	}
	return nil
}

// writeOnce makes a file that is not there. One that is cut short by a crash would be refused at the next start, so it
// gets its name only when it is whole.
func writeOnce(path string, content []byte) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	part := path + ".part"
	if err := os.WriteFile(part, content, 0o600); err != nil {
		return err
	}
	return os.Rename(part, path)
}
