package main

import (
	"fmt"
	"time"

	"signaldevice/access"
)

type tokenCommand struct {
	Create tokenCreateCommand `cmd:"" help:"Make a token and print it, once: the file keeps a hash."`
}

type tokenCreateCommand struct {
	Tokens  string        `help:"File of token hashes; made if need be." required:"" placeholder:"FILE"`
	Client  string        `help:"Who will use it. Tokens of one client share its replies." required:"" placeholder:"NAME"`
	Role    string        `help:"What the client may do: a role of roles.yaml, such as admin, operator or viewer." required:"" placeholder:"ROLE"`
	Expires time.Duration `help:"How long it is valid; 0 for ever." default:"0s"`
}

// Help shows an example.
func (tokenCreateCommand) Help() string {
	return `A running API knows the token within two seconds. To revoke it, delete its line in the file.

Example:
  signal-device token create --tokens tokens.yaml --client panel --role operator --expires 720h`
}

// Run makes the token and prints it.
func (c *tokenCreateCommand) Run(env *environment) error {
	token, err := access.CreateToken(c.Tokens, c.Client, c.Role, c.Expires)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(env.out, token)
	return err
}
