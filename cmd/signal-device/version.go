package main

import (
	"fmt"
	"runtime/debug"
)

type versionCommand struct{}

// Run prints the module version, the commit where it is known, and the compiler.
func (versionCommand) Run(env *environment) error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return fmt.Errorf("version: this binary carries no build information")
	}
	fmt.Fprintf(env.out, "signal-device %s %s%s\n", info.Main.Version, commit(info), info.GoVersion)
	return nil
}

func commit(info *debug.BuildInfo) string {
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "commit " + s.Value + " "
		}
	}
	return ""
}
