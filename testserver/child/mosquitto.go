package child

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
)

// Mosquitto returns a mosquitto with one listener that admits anybody. conf is more of mosquitto.conf, put after the
// listener's own lines: cafile, certfile and the like so belong to that listener, and win over these defaults.
func Mosquitto(conf string) Program {
	return Program{
		Name: "mosquitto",
		Args: func(dir string, port int) ([]string, error) {
			me, err := user.Current()
			if err != nil {
				return nil, fmt.Errorf("mosquitto: %w", err)
			}
			// Started by root, mosquitto would become a user who cannot read the files of this one.
			text := fmt.Sprintf("user %s\nallow_anonymous true\nlistener %d 127.0.0.1\n%s\n", me.Username, port, conf)
			file := filepath.Join(dir, "mosquitto.conf")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				return nil, fmt.Errorf("mosquitto: %w", err)
			}
			return []string{"-c", file}, nil
		},
		Ready: Connects,
	}
}
