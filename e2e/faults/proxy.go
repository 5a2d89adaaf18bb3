package faults

import (
	"context"
	"fmt"
	"strings"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// proxies make proxies, in this process.
type proxies struct {
	server *toxiproxy.ApiServer // only its settings are used; it listens nowhere
}

func newProxies() proxies {
	zerolog.SetGlobalLevel(zerolog.Disabled) // some toxics write to standard error past the logger that they are given
	return proxies{toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())}
}

// proxy is the way between two processes.
type proxy struct {
	*toxiproxy.Proxy
}

// open returns a proxy for a server on a port of its own.
func (p proxies) open(name, server string) (*proxy, error) {
	one := &proxy{toxiproxy.NewProxy(p.server, name, "127.0.0.1:0", server)}
	if err := one.Start(); err != nil {
		return nil, fmt.Errorf("proxy %s: %w", name, err)
	}
	return one, nil
}

// refuse closes all connections and refuses new ones, until mend.
func (p *proxy) refuse() { p.Stop() }

// mend lets everything pass as at first.
func (p *proxy) mend(ctx context.Context) error {
	p.Toxics.ResetToxics(ctx)
	if p.Enabled {
		return nil
	}
	if err := p.Start(); err != nil {
		return fmt.Errorf("proxy %s: %w", p.Name, err)
	}
	return nil
}

// slow puts something in the way of both directions: kind and attributes are those of toxiproxy.
func (p *proxy) slow(kind, attributes string) error {
	for _, stream := range []string{"upstream", "downstream"} {
		toxic := fmt.Sprintf(`{"name":%q,"type":%q,"stream":%q,"attributes":%s}`, kind+" "+stream, kind, stream, attributes)
		if _, err := p.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
			return fmt.Errorf("proxy %s: %s: %w", p.Name, kind, err)
		}
	}
	return nil
}
