package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"signaldevice/access"
	"signaldevice/catalogue/configfile"
)

type tokenCommand struct {
	Create tokenCreateCommand `cmd:"" help:"Make a token and print it, once: the file keeps a hash."`
}

type tokenCreateCommand struct {
	Tokens  string        `help:"File of token hashes; made if need be." required:"" placeholder:"FILE"`
	Client  string        `help:"Who will use it. Tokens of one client share its replies." required:"" placeholder:"NAME"`
	Role    string        `help:"What the client may do: a role of roles.yaml, such as admin, operator or viewer." required:"" placeholder:"ROLE"`
	Roles   string        `help:"File of roles that the API has; where it is not given, the roles.yaml beside the tokens." placeholder:"FILE"`
	Expires time.Duration `help:"How long it is valid; 0 for ever." default:"0s"`
}

// Help shows an example.
func (tokenCreateCommand) Help() string {
	return `A running API knows the token within two seconds. To revoke it, delete its line in the file.

A role that is not in the file of roles is refused. Without such a file, one that is not built in is taken with a warning.

Example:
  signal-device token create --tokens tokens.yaml --client panel --role operator --expires 720h`
}

// Run makes the token and prints it.
func (c *tokenCreateCommand) Run(env *environment) error {
	if err := c.checkRole(env.log); err != nil {
		return err
	}
	token, err := access.CreateToken(c.Tokens, c.Client, c.Role, c.Expires)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(env.out, token)
	return err
}

// checkRole refuses a role that the API does not have. Without a file of roles it warns only: the API may yet be given one.
func (c *tokenCreateCommand) checkRole(log *slog.Logger) error {
	file := rolesFile(c.Roles, c.Tokens)
	names, err := roleNames(file)
	switch {
	case err != nil:
		return err
	case slices.Contains(names, c.Role):
	case file == "":
		log.Warn("this role is not built in: without a file of roles that has it, the client may do nothing", "role", c.Role, "built_in", names)
	default:
		return usagef("role %q is not in %s, which has %s%s", c.Role, file, strings.Join(names, ", "), configfile.DidYouMean(c.Role, names))
	}
	return nil
}

// rolesFile returns the file that is named, else the one beside the tokens, else "".
func rolesFile(named, tokens string) string {
	beside := filepath.Join(filepath.Dir(tokens), "roles.yaml")
	if _, err := os.Stat(beside); named == "" && err == nil {
		return beside
	}
	return named
}

// roleNames are the roles of a file; where it is "", those that are built in.
func roleNames(file string) ([]string, error) {
	roles, err := access.OpenAuthorizer(access.AuthorizerConfig{Path: file, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	return roles.Names(), nil
}
