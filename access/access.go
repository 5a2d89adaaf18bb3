// Package access says who a caller is and what it may do.
//
// Two files decide. The tokens file turns a bearer token into an Identity: a client and the name of its role. roles.yaml
// turns the role into permissions and into the labels of the devices that the client may touch. Whatever no role grants
// is denied. Both files are read again when they change; a bad version is reported and the one before it stays. Tokens
// are kept as hashes: whoever reads the file cannot use it.
//
// The package does no login of its own and asks nobody over a network. Everything here is safe for concurrent use.
package access

import (
	"fmt"
	"regexp"
	"unicode"
	"unicode/utf8"

	"signaldevice/device"
)

// Identity is who a credential names.
type Identity struct {
	Client device.ClientID
	Role   string // as the credential says; whether there is such a role only roles.yaml knows
}

// maxClient bounds the name of a client, in bytes. It leaves room for issuer and subject of a login.
const maxClient = 512

var roleName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,63}$`)

func checkRoleName(role string) error {
	if !roleName.MatchString(role) {
		return fmt.Errorf("role must match %s", roleName)
	}
	return nil
}

// checkClient refuses names that would not survive a log line or a look at the file.
func checkClient(client string) error {
	if client == "" || len(client) > maxClient || !utf8.ValidString(client) {
		return fmt.Errorf("client must have 1 to %d bytes of UTF-8", maxClient)
	}
	for _, c := range client {
		if !unicode.IsGraphic(c) || unicode.IsSpace(c) {
			return fmt.Errorf("client must hold visible characters only, no spaces")
		}
	}
	return nil
}
