package catalogue

import (
	"context"
	"encoding/json"
	"log/slog"

	"signaldevice/catalogue/configfile"
	"signaldevice/device"
)

// LiveConfig says which file a Live keeps up with.
type LiveConfig struct {
	Path     string      // "": the catalogue that the program was built with, which never changes
	Reloaded func(error) // if not nil, told of each version after the first: nil, or what is wrong with it
	Log      *slog.Logger
}

// Live is the newest good catalogue of a file. It implements dispatch.Catalogue; each call sees one whole version.
type Live struct{ file *configfile.Live[Catalogue] }

// OpenLive loads the file, which must be good. From then on a bad version is reported and the one before it stays.
func OpenLive(c LiveConfig) (*Live, error) {
	file, err := configfile.Open(configfile.Config[Catalogue]{
		Path:     c.Path,
		Default:  Default(),
		MaxBytes: MaxFileBytes,
		Parse:    Load,
		Reloaded: c.Reloaded,
		Log:      c.Log,
	})
	if err != nil {
		return nil, err
	}
	return &Live{file}, nil
}

// Reload reads the file now, as a SIGHUP asks for. When it returns an error, the version before stays.
func (l *Live) Reload() error { return l.file.Reload() }

// Watch reads the file again within about a second of each change, until ctx ends.
func (l *Live) Watch(ctx context.Context) { l.file.Watch(ctx) }

// Commands is Catalogue.Commands of the newest version.
func (l *Live) Commands() []device.Command { return l.file.Current().Commands() }

// CommandsOf is Catalogue.CommandsOf of the newest version.
func (l *Live) CommandsOf(labels device.Labels) []device.Command {
	return l.file.Current().CommandsOf(labels)
}

// Command is Catalogue.Command of the newest version.
func (l *Live) Command(name string) (device.Command, error) { return l.file.Current().Command(name) }

// Prepare is Catalogue.Prepare of the newest version.
func (l *Live) Prepare(name string, args json.RawMessage, labels func() (device.Labels, error)) (device.Payload, error) {
	return l.file.Current().Prepare(name, args, labels)
}

// Answer is Catalogue.Answer of the newest version.
func (l *Live) Answer(command string, id device.RequestID, body []byte) device.Answer {
	return l.file.Current().Answer(command, id, body)
}
