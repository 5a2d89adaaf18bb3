package app

import (
	"cmp"
	"context"
	"path/filepath"
)

// Standalone starts broker and API in one process. The API dials the broker by gRPC with mTLS, as in two processes. It
// uses the data folder's own tokens.yaml, roles.yaml and commands.yaml where the options name no other files.
func Standalone(ctx context.Context, api APIOptions, broker BrokerOptions) (*App, error) {
	a := newApp(api.Log)
	return a.started(ctx, a.startStandalone(ctx, api, broker))
}

func (a *App) startStandalone(ctx context.Context, o APIOptions, bo BrokerOptions) error {
	b, err := a.startBroker(ctx, bo)
	if err != nil {
		return err
	}
	o.Tokens = cmp.Or(o.Tokens, filepath.Join(bo.Data, tokensFile))
	o.Roles = cmp.Or(o.Roles, filepath.Join(bo.Data, rolesFile))
	o.Catalogue = cmp.Or(o.Catalogue, filepath.Join(bo.Data, commandsFile))
	api, err := a.startAPI(ctx, o, BrokerAccess{
		Addrs: []string{a.ready.GRPC}, CA: a.ready.CA, Cert: a.ready.Service.Cert, Key: a.ready.Service.Key,
	})
	if err != nil {
		return err
	}
	if err := a.serveAdmin(ctx, o.Admin, api.service, o.Pprof, api.metrics, b); err != nil {
		return err
	}
	return a.openDoors(ctx, o, api)
}
