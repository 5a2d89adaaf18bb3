package cache

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/redis/rueidis"
)

// useTLS takes up the files that the URL cannot name. They must be good now; the client's certificate may be exchanged
// under a running program.
func useTLS(option *rueidis.ClientOption, cfg RedisConfig) error {
	if cfg.CA == "" && cfg.Cert == "" && cfg.Key == "" {
		return nil
	}
	if option.TLSConfig == nil {
		return errors.New("cache: files for TLS are given, but the redis URL does not begin with rediss://")
	}
	if cfg.CA != "" {
		pem, err := os.ReadFile(cfg.CA)
		if err != nil {
			return fmt.Errorf("cache: redis CA: %w", err)
		}
		option.TLSConfig.RootCAs = x509.NewCertPool()
		if !option.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("cache: redis CA: %s holds no certificate", cfg.CA)
		}
	}
	if cfg.Cert == "" && cfg.Key == "" {
		return nil
	}
	load := func() (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
		if err != nil {
			return nil, fmt.Errorf("cache: redis client certificate: %w", err)
		}
		return &cert, nil
	}
	if _, err := load(); err != nil {
		return err
	}
	option.TLSConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return nil
}
