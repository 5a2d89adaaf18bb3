// Command signal-device sends commands to cameras and brings their replies back: the API, the message broker behind it,
// both in one process, a demonstration, and the tools around them. Each file holds one subcommand: flags in, app out.
//
// Its exit codes are below; scripts rely on them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// The exit codes.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitRefused  = 3 // the API refused the call
	exitOffline  = 4 // the device is offline, and the command does not wait for it
	exitNoAnswer = 5 // what was waited for did not come in time
)

// commandLine is everything that may stand on the command line.
type commandLine struct {
	LogLevel  slog.Level `help:"Log what is at least so important: debug, info, warn or error." default:"info"`
	LogFormat string     `help:"Log as text or as json, on standard error." enum:"text,json" default:"text"`

	Demo       demoCommand       `cmd:"" group:"start" set:"host=127.0.0.1" help:"Try it: broker, API and simulated cameras on this machine."`
	Standalone standaloneCommand `cmd:"" group:"start" set:"host=" help:"Run broker and API in one process."`
	Serve      serveCommand      `cmd:"" group:"start" set:"host=" help:"Run the API; the broker runs elsewhere."`
	Broker     brokerCommand     `cmd:"" group:"start" set:"host=" help:"Run the broker, or make certificates for its clients."`

	Token     tokenCommand     `cmd:"" group:"set up" help:"Make bearer tokens for clients of the API."`
	EnrolCode enrolCodeCommand `cmd:"" group:"set up" help:"Make a one-time code with which a camera enrols itself."`
	Catalogue catalogueCommand `cmd:"" group:"set up" help:"Check a file of commands."`
	Migrate   migrateCommand   `cmd:"" group:"set up" help:"Move the devices of Yandex IoT Core into the broker."`

	Devices  devicesCommand  `cmd:"" group:"use" help:"List cameras, or show one."`
	Commands commandsCommand `cmd:"" group:"use" help:"List the commands that cameras take, or show one."`
	Requests requestsCommand `cmd:"" group:"use" help:"List what was sent, show what became of it, or cancel it."`

	Send    sendCommand    `cmd:"" group:"use" help:"Send a command to a camera, or to many."`
	Replies repliesCommand `cmd:"" group:"use" help:"Read the replies of a camera."`
	Watch   watchCommand   `cmd:"" group:"use" help:"Be told of replies, requests and cameras as it happens."`
	Camera  cameraCommand  `cmd:"" group:"use" help:"Be a camera: simulated, with real MQTT."`
	Bench   benchCommand   `cmd:"" group:"use" help:"Measure whole exchanges on this machine."`

	OpenAPI    openAPICommand    `cmd:"" name:"openapi" group:"about" help:"Print the description of the HTTP API."`
	Completion completionCommand `cmd:"" group:"about" help:"Print a script that completes command lines in your shell."`
	Version    versionCommand    `cmd:"" group:"about" help:"Print which build this is."`
}

const description = `Send commands to cameras and read their replies.

Every option may also be an environment variable: --ready-file is SIGNAL_DEVICE_READY_FILE.

Exit codes:
  0  all went well
  1  something failed, or a camera answered with an error
  2  the command line is wrong, and nothing was done
  3  the API refused the call
  4  the device is offline, and the command does not wait for it
  5  what was waited for did not come in time (send, replies, watch)`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main with its surroundings as arguments. Only --help ends the process from within.
func run(args []string, stdout, stderr io.Writer) int {
	var cli commandLine
	parser, err := kong.New(&cli,
		kong.Name("signal-device"),
		kong.Description(description),
		kong.DefaultEnvars("SIGNAL_DEVICE"),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true}),
		kong.ExplicitGroups([]kong.Group{
			{Key: "start", Title: "Start"}, {Key: "set up", Title: "Set up"}, {Key: "use", Title: "Use"}, {Key: "about", Title: "About"},
		}),
		kong.Writers(stdout, stderr),
	)
	if err != nil {
		return fail(stderr, err)
	}
	if len(args) > 0 && args[0] == completeWord {
		if err := answerShell(stdout, parser.Model.Node, args[1:]); err != nil {
			return fail(stderr, err)
		}
		return exitOK
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "signal-device: %v\nTry: signal-device %s\n", err, helpFor(err))
		return exitUsage
	}
	// The first signal stops in order; the second one, with the default behaviour back in place, at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	defer stop()

	env := &environment{
		out: stdout,
		err: stderr,
		log: newLogger(stderr, cli.LogLevel, cli.LogFormat),
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	if err := parsed.Run(env); err != nil {
		return fail(stderr, err)
	}
	return exitOK
}

// environment is what every subcommand is given besides its flags.
type environment struct {
	out io.Writer
	err io.Writer
	log *slog.Logger
}

func newLogger(w io.Writer, level slog.Level, format string) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// usageError is a fault of the command line that only the subcommand could find.
type usageError struct{ error }

func (usageError) exitCode() int { return exitUsage }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func fail(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "signal-device: %v\n", err)
	return codeOf(err)
}

// codeOf returns the exit code that an error asks for.
func codeOf(err error) int {
	if err == nil {
		return exitOK
	}
	var coded interface{ exitCode() int }
	if errors.As(err, &coded) {
		return coded.exitCode()
	}
	return exitFailed
}

// helpFor returns the arguments that show the help nearest to a fault of the command line.
func helpFor(err error) string {
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if node := parse.Context.Selected(); node != nil {
			return node.Path() + " --help"
		}
	}
	return "--help"
}
