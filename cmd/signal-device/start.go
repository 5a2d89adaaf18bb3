package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"signaldevice/app"
)

// startFlags are the options of everything that is started and stays.
type startFlags struct {
	Admin     string `help:"Listen here for metrics and health; keep it away from the public." default:"127.0.0.1:9090"`
	ReadyFile string `help:"Write addresses and credentials here, as JSON, once everything listens." placeholder:"PATH"`
	Pprof     bool   `help:"Serve profiles of the process on the admin listener."`
}

// until runs a started program: it tells that it is ready, reloads on SIGHUP, and stops it when ctx ends or a part of it
// fails. ready is called before the ready file is written; it may be nil.
func (f startFlags) until(ctx context.Context, env *environment, program *app.App, ready func() error) (err error) {
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), app.StopWithin)
		defer cancel()
		err = errors.Join(err, program.Stop(stopCtx))
		if err == nil {
			env.log.Info("stopped")
		}
	}()
	if ready != nil {
		if err := ready(); err != nil {
			return err
		}
	}
	if f.ReadyFile != "" {
		if err := program.Ready().Write(f.ReadyFile); err != nil {
			return err
		}
	}
	at := program.Ready()
	env.log.Info("ready", "http", at.HTTP, "admin", at.Admin, "mqtt", at.MQTT, "grpc", at.GRPC)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			env.log.Info("stopping")
			program.Drain(context.WithoutCancel(ctx)) // a second signal ends the process at once
			return nil
		case err := <-program.Failed():
			return fmt.Errorf("stopped because a part failed: %w", err)
		case <-hangup:
			if err := program.Reload(); err != nil {
				env.log.Error("reload failed, the version before stays", "error", err)
			}
		}
	}
}
