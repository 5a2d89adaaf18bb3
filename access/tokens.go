package access

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"time"

	"go.yaml.in/yaml/v4"

	"signaldevice/catalogue/configfile"
	"signaldevice/device"
)

// Limits of the tokens file and of what is taken for a token at all.
const (
	maxTokensBytes = 4 << 20
	maxTokenChars  = 256
)

// TokensConfig says which file a Tokens keeps up with.
type TokensConfig struct {
	Path     string           // a missing file holds no tokens
	Clock    func() time.Time // nil: time.Now
	Reloaded func(error)      // if not nil, told of each version after the first: nil, or what is wrong with it
	Log      *slog.Logger
}

// Tokens knows the bearer tokens of a file, by their hashes.
type Tokens struct {
	file  *configfile.Live[tokenSet]
	clock func() time.Time
}

// tokenSet is one version of the file, by SHA-256 of the token.
type tokenSet map[[sha256.Size]byte]grantedToken

type grantedToken struct {
	Identity
	expires time.Time // zero: never
}

// OpenTokens reads the file, which must be good or missing. From then on a bad version is reported and the one before it
// stays. A file that others than its owner may read or write is taken, with a warning in the log.
func OpenTokens(c TokensConfig) (*Tokens, error) {
	if c.Path == "" {
		return nil, errors.New("access: the tokens file has no path")
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	file, err := configfile.Open(configfile.Config[tokenSet]{
		Path:     c.Path,
		MaxBytes: maxTokensBytes,
		Optional: true,
		Private:  true,
		Parse:    parseTokens,
		Reloaded: c.Reloaded,
		Log:      c.Log,
	})
	if err != nil {
		return nil, err
	}
	return &Tokens{file: file, clock: c.Clock}, nil
}

// Reload reads the tokens now. When it returns an error, the version before stays.
func (t *Tokens) Reload() error { return t.file.Reload() }

// Watch reads the tokens again within about a second of each change, until ctx ends.
func (t *Tokens) Watch(ctx context.Context) { t.file.Watch(ctx) }

// Authenticate returns whom a bearer token names. One answer, Unauthenticated, stands for a token that is unknown,
// malformed, expired or revoked. How long it takes tells nothing of the tokens that are there: what is looked up is a
// hash of the token, which nobody can steer towards one of theirs.
func (t *Tokens) Authenticate(token string) (Identity, error) {
	if len(token) > maxTokenChars {
		return Identity{}, errUnknownToken()
	}
	granted, ok := (*t.file.Current())[sha256.Sum256([]byte(token))]
	if !ok || !granted.expires.IsZero() && !t.clock().Before(granted.expires) {
		return Identity{}, errUnknownToken()
	}
	return granted.Identity, nil
}

func errUnknownToken() error {
	return device.Errorf(device.Unauthenticated, "the token is not valid")
}

// tokenEntry is one token in the file.
type tokenEntry struct {
	Client  string  `yaml:"client"`
	Role    string  `yaml:"role"`
	Created instant `yaml:"created"`
	Expires instant `yaml:"expires"`
	SHA256  string  `yaml:"sha256"`
}

// instant is a moment in RFC 3339; zero: not given.
type instant time.Time

// UnmarshalYAML reads the moment.
func (i *instant) UnmarshalYAML(node *yaml.Node) error {
	t, err := time.Parse(time.RFC3339, node.Value)
	if err != nil {
		return errors.New("must be a time such as 2026-11-24T08:00:00Z")
	}
	*i = instant(t)
	return nil
}

// parseTokens reads the file's list. A file without any data holds no tokens.
func parseTokens(data []byte) (*tokenSet, error) {
	entries, err := decodeTokens(data)
	if err != nil {
		return nil, err
	}
	set := make(tokenSet, len(entries))
	var faults configfile.Faults
	for i := range entries {
		node := configfile.Resolve(&entries[i])
		sum, granted, bad := readToken(node)
		if _, twice := set[sum]; twice && len(bad) == 0 {
			bad = configfile.Faults{configfile.Faultf(node.Line, "this token is there twice")}
		}
		faults = append(faults, bad...)
		set[sum] = granted
	}
	if err := faults.Err(); err != nil {
		return nil, err
	}
	return &set, nil
}

func readToken(node *yaml.Node) (sum [sha256.Size]byte, granted grantedToken, faults configfile.Faults) {
	if node.Kind != yaml.MappingNode {
		return sum, granted, configfile.Faults{configfile.Faultf(node.Line, "a token must be a mapping of fields")}
	}
	var e tokenEntry
	if faults = configfile.DecodeNode(node, &e); len(faults) > 0 {
		return sum, granted, faults
	}
	fault := func(field, message string) {
		faults = append(faults, configfile.Faultf(configfile.Line(node, field), "%s", message))
	}
	if err := checkClient(e.Client); err != nil {
		fault("client", err.Error())
	}
	if err := checkRoleName(e.Role); err != nil {
		fault("role", err.Error())
	}
	digest, err := hex.DecodeString(e.SHA256)
	if err != nil || len(digest) != len(sum) {
		fault("sha256", "sha256 must have 64 hexadecimal digits")
	}
	copy(sum[:], digest)
	granted = grantedToken{Identity{device.ClientID(e.Client), e.Role}, time.Time(e.Expires)}
	return sum, granted, faults
}
