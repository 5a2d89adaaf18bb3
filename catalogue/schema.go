package catalogue

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"signaldevice/catalogue/configfile"
)

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
	text := json.RawMessage(takesNothing)
	if !node.IsZero() {
		line = node.Line
		if node.Kind != yaml.MappingNode {
			return argsSchema{}, configfile.Faults{configfile.Faultf(line, "args must be a JSON Schema: a mapping of fields")}
		}
		var faults configfile.Faults
		if text, faults = toJSON(node, argsRoot); len(faults) > 0 {
			return argsSchema{}, faults
		}
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	object, ok := doc.(map[string]any)
	if err != nil || !ok {
		panic(fmt.Sprintf("catalogue: a schema was written as bad JSON: %v", err))
	}
	if faults := checkDialect(object, node); len(faults) > 0 {
		return argsSchema{}, faults
	}
	compiler := newCompiler()
	compiled, err := compile(compiler, object)
	if err != nil {
		return argsSchema{}, schemaFaults(err, node, line)
	}
	if faults := checkKeywords(object, compiler, node, line); len(faults) > 0 {
		return argsSchema{}, faults
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

// newCompiler returns a compiler for one schema. It loads nothing: a $ref leads into the same schema or to JSON Schema's
// own.
func newCompiler() *jsonschema.Compiler {
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	compiler.UseLoader(noLoader{})
	return compiler
}

func compile(compiler *jsonschema.Compiler, doc map[string]any) (*jsonschema.Schema, error) {
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
