package catalogue

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"signaldevice/catalogue/configfile"
)

// maxSchemaBytes bounds the JSON of one command's arguments, so that aliases cannot make a small file large.
const maxSchemaBytes = 64 << 10

// dialect is the one JSON Schema dialect that args are written in.
const dialect = "https://json-schema.org/draft/2020-12/schema"

// schemaURL is where a schema is for itself. Each is compiled alone, so that one name serves all.
const schemaURL = "catalogue://command/args"

// takesNothing is the schema of a command without args.
const takesNothing = `{"type":"object","properties":{},"additionalProperties":false}`

// argsSchema is a JSON Schema in the three forms that are needed.
type argsSchema struct {
	json     json.RawMessage    // for display, the fields in the author's order
	doc      map[string]any     // for looking into
	compiled *jsonschema.Schema // for judging
}

// readSchema reads the args of a command that begins on the line. A zero node is a command without args.
func readSchema(node *yaml.Node, line int) (argsSchema, configfile.Faults) {
	node = configfile.Resolve(node)
	text := []byte(takesNothing)
	if !node.IsZero() {
		line = node.Line
		if node.Kind != yaml.MappingNode {
			return argsSchema{}, configfile.Faults{configfile.Faultf(line, "args must be a JSON Schema: a mapping of fields")}
		}
		w := jsonWriter{}
		w.value(node, 0)
		if len(w.faults) > 0 {
			return argsSchema{}, w.faults
		}
		text = w.buf.Bytes()
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	object, ok := doc.(map[string]any)
	if err != nil || !ok {
		panic(fmt.Sprintf("catalogue: a schema was written as bad JSON: %v", err))
	}
	if faults := checkDialect(object, node); len(faults) > 0 {
		return argsSchema{}, faults
	}
	compiled, err := compile(object)
	if err != nil {
		return argsSchema{}, schemaFaults(err, node, line)
	}
	return argsSchema{json: text, doc: object, compiled: compiled}, nil
}

// checkDialect refuses what would be compiled, but not as this program uses it.
func checkDialect(doc map[string]any, node *yaml.Node) configfile.Faults {
	var faults configfile.Faults
	if s, ok := doc["$schema"]; ok && s != dialect {
		faults = append(faults, configfile.Faultf(configfile.Line(node, "$schema"), "args.$schema must be %s or left out", dialect))
	}
	if t, ok := doc["type"]; ok && t != "object" {
		faults = append(faults, configfile.Faultf(configfile.Line(node, "type"), "args.type must be object"))
	}
	return faults
}

// compile makes a schema ready. It loads nothing: a $ref leads into the same schema or to JSON Schema's own.
func compile(doc map[string]any) (*jsonschema.Schema, error) {
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	compiler.UseLoader(noLoader{})
	if err := compiler.AddResource(schemaURL, doc); err != nil {
		return nil, err
	}
	return compiler.Compile(schemaURL)
}

// noLoader keeps schemas away from files and networks.
type noLoader struct{}

// Load refuses every address.
func (noLoader) Load(string) (any, error) {
	return nil, errors.New("schemas outside this command are not loaded")
}

// schemaFaults says on which lines a schema is wrong.
func schemaFaults(err error, node *yaml.Node, line int) configfile.Faults {
	var invalid *jsonschema.SchemaValidationError
	if !errors.As(err, &invalid) {
		return configfile.Faults{configfile.Faultf(line, "args are not a usable JSON Schema: %v", err)}
	}
	var faults configfile.Faults
	for _, f := range faultsOf(invalid.Err) {
		fault := configfile.Faultf(configfile.Line(node, f.at...), "%s %s", place(argsRoot, f.at), f.message)
		if !slices.Contains(faults, fault) { // several vocabularies say the same
			faults = append(faults, fault)
		}
	}
	slices.SortFunc(faults, func(a, b configfile.Fault) int {
		return cmp.Or(a.Line-b.Line, cmp.Compare(a.Message, b.Message))
	})
	return faults
}

// jsonWriter turns YAML nodes into JSON and keeps the order of fields.
type jsonWriter struct {
	buf    bytes.Buffer
	faults configfile.Faults
}

func (w *jsonWriter) fault(node *yaml.Node, message string) {
	w.faults = append(w.faults, configfile.Faultf(node.Line, "%s", message))
}

// value writes one value that stands inside depth others. After the first fault nothing more is written.
func (w *jsonWriter) value(node *yaml.Node, depth int) {
	here := node
	node = configfile.Resolve(node)
	switch {
	case len(w.faults) > 0:
	case w.buf.Len() > maxSchemaBytes:
		w.fault(here, "args are larger than 65536 bytes")
	case node.Kind == yaml.ScalarNode:
		w.scalar(node)
	case depth == maxDepth:
		w.fault(here, "args are nested more than 64 deep")
	case node.Kind == yaml.MappingNode:
		w.mapping(node, depth)
	default:
		w.list(node, depth)
	}
}

func (w *jsonWriter) mapping(node *yaml.Node, depth int) {
	seen := map[string]bool{}
	w.buf.WriteByte('{')
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := configfile.Resolve(node.Content[i])
		if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" {
			w.fault(node.Content[i], "a field name in args must be text: put it in quotes")
			return
		}
		if seen[key.Value] {
			w.fault(key, "field "+shownName(key.Value)+" is there twice")
			return
		}
		seen[key.Value] = true
		if i > 0 {
			w.buf.WriteByte(',')
		}
		w.text(key.Value)
		w.buf.WriteByte(':')
		w.value(node.Content[i+1], depth+1)
	}
	w.buf.WriteByte('}')
}

func (w *jsonWriter) list(node *yaml.Node, depth int) {
	w.buf.WriteByte('[')
	for i, item := range node.Content {
		if i > 0 {
			w.buf.WriteByte(',')
		}
		w.value(item, depth+1)
	}
	w.buf.WriteByte(']')
}

func (w *jsonWriter) scalar(node *yaml.Node) {
	switch node.ShortTag() {
	case "!!str", "!!timestamp":
		w.text(node.Value)
	case "!!null":
		w.buf.WriteString("null")
	case "!!bool":
		w.buf.WriteString(strings.ToLower(node.Value))
	case "!!int", "!!float":
		w.number(node)
	default:
		w.fault(node, "args hold a value that JSON cannot express")
	}
}

// number takes a number as its author wrote it, so that the form shows 0.10 as 0.10.
func (w *jsonWriter) number(node *yaml.Node) {
	if !json.Valid([]byte(node.Value)) {
		w.fault(node, "a number in args must be written as in JSON, such as 17, -0.5 or 1e3")
		return
	}
	if message := numberFault(node.Value); message != "" {
		w.fault(node, "args hold a number that "+message)
		return
	}
	w.buf.WriteString(node.Value)
}

func (w *jsonWriter) text(s string) {
	w.buf.Write(quote(s))
}
