package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"signaldevice/app"
	"signaldevice/broker"
	"signaldevice/broker/identity"
)

type brokerCommand struct {
	Run  brokerRunCommand  `cmd:"" default:"withargs" help:"Run the broker (what broker alone does)."`
	Cert brokerCertCommand `cmd:"" help:"Make one more certificate for a client of the broker's gRPC."`

	RotateKey brokerRotateKeyCommand `cmd:"" help:"Make a new key that signs request ids from the broker's next start."`
}

type brokerRunCommand struct {
	brokerFlags
	startFlags
	Data string `help:"Folder of everything that must survive." required:"" placeholder:"DIR"`
}

// Help shows an example.
func (brokerRunCommand) Help() string {
	return `The data folder then holds ca.pem, and certificates for the API (service.pem, service.key) and for
administration (operator.pem, operator.key).

Example:
  signal-device broker --data /var/lib/signal-device --host broker.example.org`
}

// Run runs the broker until it is told to stop.
func (c *brokerRunCommand) Run(ctx context.Context, env *environment) error {
	options := c.options(c.Data)
	options.Admin, options.Pprof, options.Log = c.Admin, c.Pprof, env.log
	program, err := app.Broker(ctx, options)
	if err != nil {
		return err
	}
	return c.until(ctx, env, program, nil)
}

type brokerCertCommand struct {
	Data string `help:"Data folder of the broker, which holds its CA." required:"" placeholder:"DIR"`
	Role string `help:"What the client may do: service (the API) or operator (administration, IoT Core's services)." enum:"service,operator" required:""`
	Out  string `help:"Folder for ROLE.pem, ROLE.key and ca.pem." required:"" placeholder:"DIR"`
}

// Help shows an example.
func (brokerCertCommand) Help() string {
	return `The broker may run meanwhile. No file that is there is replaced.

Example:
  signal-device broker cert --data /var/lib/signal-device --role service --out api-2`
}

// Run issues the certificate and names its file.
func (c *brokerCertCommand) Run(env *environment) error {
	if _, err := os.Stat(filepath.Join(c.Data, "ca.pem")); err != nil {
		return fmt.Errorf("%s is no broker's data folder: start the broker there once, it makes its CA: %w", c.Data, err)
	}
	if err := identity.IssueFrom(c.Data, c.Out, identity.Role(c.Role)); err != nil {
		return err
	}
	_, err := fmt.Fprintln(env.out, filepath.Join(c.Out, c.Role+".pem"))
	return err
}

type brokerRotateKeyCommand struct {
	Data string `help:"Data folder of the broker, which holds its keys." required:"" placeholder:"DIR"`
}

// Help tells what happens to the old keys, and shows an example.
func (brokerRotateKeyCommand) Help() string {
	return `Replies to requests that older keys signed are still taken: a key is kept for 60 days after it was replaced. The nodes
of one broker share the file: copy it to each before any is restarted.

Example:
  signal-device broker rotate-key --data /var/lib/signal-device`
}

// Run adds the key and names its file.
func (c *brokerRotateKeyCommand) Run(env *environment) error {
	err := broker.RotateKey(c.Data, time.Now())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is no broker's data folder: start the broker there once, it makes its keys: %w", c.Data, err)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(env.out, filepath.Join(c.Data, broker.KeyFile))
	return err
}
