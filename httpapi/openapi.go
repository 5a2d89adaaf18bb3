package httpapi

import (
	"bytes"
	_ "embed"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v4"

	"signaldevice/device"
)

//go:embed openapi.yaml
var openAPISource []byte

// OpenAPI returns the document of this API as YAML and as JSON. With commands, the body of the call that sends one is
// described by a variant for each of them; without, by its general form.
func OpenAPI(commands []device.Command) (asYAML, asJSON []byte, err error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(openAPISource, &doc); err != nil {
		return nil, nil, fmt.Errorf("openapi: read: %w", err)
	}
	expand(&doc)
	root := doc.Content[0]
	if len(commands) > 0 {
		if err := addCommands(member(root, "components", "schemas"), commands); err != nil {
			return nil, nil, fmt.Errorf("openapi: %w", err)
		}
	}
	// JSON first: the YAML encoder takes the tags off the nodes.
	if asJSON, err = nodeToJSON(root); err != nil {
		return nil, nil, fmt.Errorf("openapi: write JSON: %w", err)
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, nil, fmt.Errorf("openapi: write YAML: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, nil, fmt.Errorf("openapi: write YAML: %w", err)
	}
	return b.Bytes(), asJSON, nil
}

// addCommands replaces the schema SendCommand by a choice of one schema for each command, told apart by the field
// command.
func addCommands(schemas *yaml.Node, commands []device.Command) error {
	variants, mapping := array(), object()
	for _, c := range commands {
		name := "Command." + c.Name
		ref := "#/components/schemas/" + name
		schema, err := commandSchema(c, ref)
		if err != nil {
			return fmt.Errorf("command %s: %w", c.Name, err)
		}
		set(schemas, name, schema)
		variants.Content = append(variants.Content, object(pair{"$ref", text(ref)}))
		set(mapping, c.Name, text(ref))
	}
	general := member(schemas, "SendCommand")
	set(schemas, "SendCommand", object(
		pair{"description", member(general, "description")},
		pair{"oneOf", variants},
		pair{"discriminator", object(
			pair{"propertyName", text("command")},
			pair{"mapping", mapping},
		)},
	))
	return nil
}

func commandSchema(c device.Command, ref string) (*yaml.Node, error) {
	args, err := jsonToNode(jsontext.NewDecoder(bytes.NewReader(argsSchema(c))))
	if err != nil {
		return nil, err
	}
	needed := array(text("command"))
	if required := member(args, "required"); required != nil && len(required.Content) > 0 {
		needed.Content = append(needed.Content, text("args"))
		rebase(args, ref+"/properties/args")
	} else {
		rebase(args, ref+"/properties/args/anyOf/0")
		args = object(pair{"anyOf", array(args, object(pair{"type", text("null")}))}) // null means none
	}
	return object(
		pair{"type", text("object")},
		pair{"title", text(c.Title)},
		pair{"description", text(c.Description)},
		pair{"required", needed},
		pair{"properties", object(
			pair{"command", object(pair{"type", text("string")}, pair{"const", text(c.Name)})},
			pair{"args", args},
		)},
		pair{"additionalProperties", boolean(false)},
	), nil
}

// rebase makes the references of a schema that stood alone ("#/$defs/x") point to its place in the document, and takes
// out the two fields that only the root of a schema file has.
func rebase(schema *yaml.Node, base string) {
	remove(schema, "$schema")
	remove(schema, "$id")
	rebaseRefs(schema, base)
}

func rebaseRefs(n *yaml.Node, base string) {
	if n.Kind == yaml.MappingNode {
		for i := 0; i < len(n.Content); i += 2 {
			value := n.Content[i+1]
			if n.Content[i].Value == "$ref" && value.Kind == yaml.ScalarNode {
				if place, ok := strings.CutPrefix(value.Value, "#"); ok {
					value.Value = base + place
				}
			}
		}
	}
	for _, child := range n.Content {
		rebaseRefs(child, base)
	}
}

// specification serves the document with the commands of this moment. It renders again only when they changed. It is
// safe for concurrent use.
type specification struct {
	commands func() []device.Command

	mu       sync.Mutex
	rendered []device.Command
	yaml     []byte
	json     []byte
}

func (s *specification) documents() (asYAML, asJSON []byte, err error) {
	now := s.commands()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.yaml != nil && slices.EqualFunc(now, s.rendered, sameInDocument) {
		return s.yaml, s.json, nil
	}
	asYAML, asJSON, err = OpenAPI(now)
	if err != nil {
		return nil, nil, err
	}
	s.rendered, s.yaml, s.json = now, asYAML, asJSON
	return asYAML, asJSON, nil
}

func sameInDocument(a, b device.Command) bool {
	return a.Name == b.Name && a.Title == b.Title && a.Description == b.Description && bytes.Equal(a.Args, b.Args)
}

func (a *API) openAPIYAML(w *answer, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	doc, _, err := a.spec.documents()
	if err != nil {
		return err
	}
	w.bytes(http.StatusOK, "application/yaml", doc)
	return nil
}

func (a *API) openAPIJSON(w *answer, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	_, doc, err := a.spec.documents()
	if err != nil {
		return err
	}
	w.bytes(http.StatusOK, "application/json", doc)
	return nil
}
