package main

import (
	"cmp"
	"embed"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"signaldevice/catalogue"
)

//go:embed completion
var completionScripts embed.FS

// completeWord is the first argument with which the scripts of completion ask what may stand next.
const completeWord = "__complete"

type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"Shell to complete in: bash, zsh or fish."`
}

// Help shows examples.
func (completionCommand) Help() string {
	return `The script completes commands, options, their values, names of servers, names of roles, names of commands of the
default catalogue, and files. It calls no API.

Examples:
  source <(signal-device completion bash)      # or in ~/.bashrc
  source <(signal-device completion zsh)       # or in ~/.zshrc, behind compinit
  signal-device completion fish | source       # or in ~/.config/fish/completions/signal-device.fish`
}

// Run prints the script.
func (c *completionCommand) Run(env *environment) error {
	script, err := completionScripts.ReadFile("completion/signal-device." + c.Shell)
	if err == nil {
		_, err = env.out.Write(script)
	}
	return err
}

// answerShell prints for a script of completion what may stand in place of the last word: its kind, then one candidate a
// line with, behind a tab, what it is about.
func answerShell(out io.Writer, model *kong.Node, args []string) error {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	found := completer{model, knownValues}.complete(args)
	if found.kind == "" {
		found.kind = "words"
	}
	var text strings.Builder
	text.WriteString(found.kind + "\n")
	for _, c := range found.words {
		text.WriteString(c.word + "\t" + firstSentence(c.about) + "\n")
	}
	_, err := io.WriteString(out, text.String())
	return err
}

func firstSentence(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	if i := strings.IndexAny(text, ".;:"); i > 0 {
		text = text[:i]
	}
	return text
}

// knownValues are values that only the program knows, found without a call to any other.
func knownValues(of string, set map[string]string) []string {
	switch of {
	case "--log-level":
		return []string{"debug", "info", "warn", "error"}
	case "--server":
		return serverNames(set["--config"])
	case "--role":
		orElse := func(flag, variable string) string { return cmp.Or(set[flag], os.Getenv(variable)) }
		names, _ := roleNames(rolesFile(orElse("--roles", "SIGNAL_DEVICE_ROLES"), orElse("--tokens", "SIGNAL_DEVICE_TOKENS")))
		return names
	case "--command", "send command", "show name":
		return commandNames()
	case "send device":
		if _, many := set["--label"]; many { // labels choose the devices, and the command stands first
			return commandNames()
		}
	}
	return nil
}

func commandNames() (names []string) {
	commands, err := catalogue.Load(catalogue.Default())
	if err != nil {
		return nil
	}
	for _, c := range commands.Commands() {
		names = append(names, c.Name)
	}
	return names
}

// serverNames are those of the file of servers, none where it cannot be read: nobody waits for a fault while typing.
func serverNames(config string) []string {
	flags := serverFlags{Config: config}
	if flags.Config == "" {
		flags.Config = os.Getenv("SIGNAL_DEVICE_CONFIG")
	}
	path, err := flags.configPath()
	if err != nil {
		return nil
	}
	file, err := readServers(path, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(file.Servers))
}
