package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"signaldevice/access"
	"signaldevice/catalogue"
)

type catalogueCommand struct {
	Lint catalogueLintCommand `cmd:"" help:"Check a file of commands: every finding is told with its line."`
}

type catalogueLintCommand struct {
	File string `arg:"" help:"The file, such as commands.yaml."`
	JSON bool   `name:"json" help:"Print the findings as a JSON array of {file, line, level, message}."`
}

// Help shows examples.
func (catalogueLintCommand) Help() string {
	return `An error is what the API refuses the file for, and the exit code is 1. A warning is what the file may be but hardly
means to be; with warnings alone the exit code is 0. Each finding is one line, FILE:LINE: LEVEL: MESSAGE.

Examples:
  signal-device catalogue lint commands.yaml
  signal-device catalogue lint --json commands.yaml | jq -r '.[] | select(.level == "error") | .message'`
}

// finding is one finding as --json prints it.
type finding struct {
	File    string          `json:"file"`
	Line    int             `json:"line"`
	Level   catalogue.Level `json:"level"`
	Message string          `json:"message"`
}

// Run checks the file.
func (c *catalogueLintCommand) Run(env *environment) error {
	data, err := readCatalogue(c.File)
	if err != nil {
		return err
	}
	roles, err := access.OpenAuthorizer(access.AuthorizerConfig{Log: env.log})
	if err != nil {
		return err
	}
	report := catalogue.Lint(data, catalogue.LintConfig{Grants: func(permission string) string { return grants(roles, permission) }})
	if err := c.print(env, report); err != nil {
		return err
	}
	if n := report.Errors(); n > 0 {
		return fmt.Errorf("%s: errors: %d, warnings: %d", c.File, n, len(report.Findings)-n)
	}
	return nil
}

// readCatalogue reads no more of a file than the catalogue takes, and one byte, so that the fault is told.
func readCatalogue(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, catalogue.MaxFileBytes+1))
}

// grants returns the role, of those that come with the program and may not do everything, which grants a permission.
func grants(roles *access.Authorizer, permission string) string {
	for _, role := range []string{"viewer", "operator"} {
		if roles.Caller(access.Identity{Role: role}).May(permission) {
			return role
		}
	}
	return ""
}

func (c *catalogueLintCommand) print(env *environment, report catalogue.Report) error {
	list := make([]finding, len(report.Findings))
	for i, f := range report.Findings {
		list[i] = finding{File: c.File, Line: max(1, f.Line), Level: f.Level, Message: f.Message}
	}
	if c.JSON {
		out := json.NewEncoder(env.out)
		out.SetEscapeHTML(false)
		return out.Encode(list)
	}
	for _, f := range list {
		if _, err := fmt.Fprintf(env.out, "%s:%d: %s: %s\n", f.File, f.Line, f.Level, f.Message); err != nil {
			return err
		}
	}
	if len(list) == 0 {
		if _, err := fmt.Fprintf(env.out, "%s: %d commands, no finding\n", c.File, report.Commands); err != nil {
			return err
		}
	}
	return nil
}
