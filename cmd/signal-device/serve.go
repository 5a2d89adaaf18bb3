package main

import (
	"context"

	"signaldevice/app"
)

type serveCommand struct {
	apiFlags
	startFlags
	Brokers    []string `name:"broker" help:"Where the broker's gRPC listens, every node of it." required:"" placeholder:"HOST:PORT" group:"Broker"`
	BrokerCA   string   `name:"broker-ca" help:"The broker's ca.pem." required:"" placeholder:"FILE" group:"Broker"`
	BrokerCert string   `help:"Certificate with the role service: the broker's service.pem." required:"" placeholder:"FILE" group:"Broker"`
	BrokerKey  string   `help:"Its key: the broker's service.key." required:"" placeholder:"FILE" group:"Broker"`
}

// Help shows an example.
func (serveCommand) Help() string {
	return `Any number of instances may run side by side; with more than one, give them the same --redis.
The broker and the cache may be down when it starts. SIGHUP reads the files again at once.

Example:
  signal-device token create --tokens tokens.yaml --client panel --role operator
  signal-device serve --broker broker:8443 --broker-ca ca.pem \
    --broker-cert service.pem --broker-key service.key \
    --redis redis://redis:6379 --tokens tokens.yaml`
}

// Run runs the API until it is told to stop.
func (c *serveCommand) Run(ctx context.Context, env *environment) error {
	if c.Tokens == "" {
		return usagef("serve needs --tokens FILE, which token create makes")
	}
	options := c.options()
	options.Admin, options.Pprof, options.Log = c.Admin, c.Pprof, env.log
	program, err := app.Serve(ctx, options, app.BrokerAccess{
		Addrs: c.Brokers, CA: c.BrokerCA, Cert: c.BrokerCert, Key: c.BrokerKey,
	})
	if err != nil {
		return err
	}
	return c.until(ctx, env, program, nil)
}
