package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"signaldevice/camera"
)

type cameraCommand struct {
	serverFlags
	Code string `help:"One-time enrolment code, made by enrol-code. Not needed once the data folder is enrolled." placeholder:"CODE"`
	Name string `help:"Name to enrol under, where the code brings none." placeholder:"NAME"`
	Data string `help:"Folder for its key and certificate; without it they are gone when it stops." placeholder:"DIR"`

	ReplyDelay     time.Duration `help:"Hold each command's first reply back so long." default:"0s" group:"Faults"`
	Silent         bool          `help:"Take commands and never reply." group:"Faults"`
	Duplicate      bool          `help:"Send each reply twice." group:"Faults"`
	DropConnection float64       `help:"Probability, for each command, of cutting the connection around the reply." default:"0" group:"Faults"`
	Garbage        float64       `help:"Probability, for each command, of publishing an event that nobody should receive." default:"0" group:"Faults"`
	Seed           uint64        `help:"Of the simulation and of chance: the same seed is the same camera." default:"1" group:"Faults"`
}

// Help shows an example.
func (cameraCommand) Help() string {
	return `It makes its own key, enrols over HTTP and holds one MQTT connection to the broker.

Example:
  export SIGNAL_DEVICE_TOKEN=...
  signal-device camera --code "$(signal-device enrol-code --name taxi-17)" --data taxi-17`
}

// Run is a camera until it is told to stop.
func (c *cameraCommand) Run(ctx context.Context, env *environment) error {
	if c.Code == "" && c.Data == "" {
		return usagef("a camera needs --code CODE, or --data DIR of one that is enrolled; signal-device enrol-code makes a code")
	}
	server, err := c.find(env.log)
	if err != nil {
		return err
	}
	cam, err := camera.New(camera.Config{
		Name: c.Name, API: server.URL, Code: c.Code, Folder: c.Data, Seed: c.Seed, Logger: env.log,
		Faults: camera.Faults{
			ReplyDelay: c.ReplyDelay, Silent: c.Silent, Duplicate: c.Duplicate,
			DropConnection: c.DropConnection, Garbage: c.Garbage,
		},
	})
	if err != nil {
		return usageError{err}
	}
	err = cam.Run(ctx)
	var refused *camera.EnrolmentError
	switch {
	case !errors.As(err, &refused) || refused.Status >= http.StatusInternalServerError:
		return err
	case refused.Status == http.StatusForbidden:
		return refusedError{fmt.Errorf("%w\nThe code is unknown, expired, or spent by another key. Make a new one: signal-device enrol-code", err)}
	default:
		return refusedError{err}
	}
}

// refusedError says that the API refused an enrolment.
type refusedError struct{ error }

func (refusedError) exitCode() int { return exitRefused }
