package httpapi

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"signaldevice/device"
)

type operation struct{ method, path string }

// operations lists what the document describes.
var operations = sync.OnceValue(func() []operation {
	var doc struct {
		Paths map[string]map[string]any `yaml:"paths"`
	}
	if err := yaml.Unmarshal(openAPISource, &doc); err != nil {
		panic(err)
	}
	var ops []operation
	for path, item := range doc.Paths {
		for method := range item {
			if method != "parameters" {
				ops = append(ops, operation{strings.ToUpper(method), path})
			}
		}
	}
	return ops
})

func TestOpenAPI_DescribesEveryRouteAndNothingElse(t *testing.T) {
	documented := map[operation]bool{}
	for _, op := range operations() {
		documented[op] = true
	}
	for _, rt := range newHarness(t).api.routes() {
		op := operation{rt.method, rt.path}
		if !documented[op] {
			t.Errorf("%v is routed and not documented", op)
		}
		delete(documented, op)
	}
	for op := range documented {
		t.Errorf("%v is documented and not routed", op)
	}
}

// kinds reads the error kinds out of package device, so that a new one cannot be forgotten here.
func kinds(t *testing.T) []device.Kind {
	t.Helper()
	found := []device.Kind{kindNotFound, kindMethodNotAllowed, kindMediaType, kindTimeout, kindStopping}
	file, err := parser.ParseFile(token.NewFileSet(), "../device/error.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Kind" {
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			if text != "" {
				found = append(found, device.Kind(text))
			}
		}
		return true
	})
	return found
}

func TestOpenAPI_ListsEveryCode(t *testing.T) {
	var doc struct {
		Components struct {
			Schemas struct {
				Code struct{ Enum []device.Kind } `yaml:"Code"`
			}
		}
	}
	if err := yaml.Unmarshal(openAPISource, &doc); err != nil {
		t.Fatal(err)
	}
	var want []device.Kind
	for _, k := range kinds(t) {
		if status, title := classify(k); status == 500 && k != device.Internal || title == "" {
			t.Errorf("kind %s has no status of its own", k)
		}
		want = append(want, k)
	}
	got := doc.Components.Schemas.Code.Enum
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("codes in the document\n%v\nkinds of error\n%v", got, want)
	}
}

// documentSchemas returns the document, and a compiler that knows its schemas as doc.json.
func documentSchemas(t *testing.T) (doc any, compiler *jsonschema.Compiler) {
	t.Helper()
	_, asJSON, err := OpenAPI(goodCommands())
	if err != nil {
		t.Fatal(err)
	}
	doc, err = jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	compiler = jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	if err := compiler.AddResource("doc.json", doc); err != nil {
		t.Fatal(err)
	}
	return doc, compiler
}

// Every example is valid, every operation that takes or gives a body has one.
func TestOpenAPI_ExamplesAreValid(t *testing.T) {
	doc, compiler := documentSchemas(t)
	examples := 0
	walk(doc, "", func(pointer string, node map[string]any) {
		if !strings.Contains(pointer, "/content/") || node["schema"] == nil {
			return
		}
		example, ok := node["example"]
		if !ok {
			t.Errorf("%s has no example", pointer)
			return
		}
		schema, err := compiler.Compile("doc.json#" + pointer + "/schema")
		if err != nil {
			t.Errorf("%s: %v", pointer, err)
			return
		}
		if err := schema.Validate(example); err != nil {
			t.Errorf("%s: %v", pointer, err)
		}
		examples++
	})
	if examples < 30 {
		t.Errorf("only %d examples were found", examples)
	}
}

func walk(node any, pointer string, visit func(string, map[string]any)) {
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	switch n := node.(type) {
	case map[string]any:
		visit(pointer, n)
		for name, child := range n {
			walk(child, pointer+"/"+escape.Replace(name), visit)
		}
	case []any:
		for i, child := range n {
			walk(child, pointer+"/"+strconv.Itoa(i), visit)
		}
	}
}

func TestOpenAPI_IsValidWithAndWithoutCommands(t *testing.T) {
	for name, commands := range map[string][]device.Command{"as written": nil, "with commands": goodCommands()} {
		t.Run(name, func(t *testing.T) {
			asYAML, asJSON, err := OpenAPI(commands)
			if err != nil {
				t.Fatal(err)
			}
			var fromYAML, fromJSON any
			if err := yaml.Unmarshal(asYAML, &fromYAML); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(asJSON, &fromJSON); err != nil {
				t.Fatal(err)
			}
			again, err := json.Marshal(fromYAML)
			if err != nil {
				t.Fatal(err)
			}
			plain, err := json.Marshal(fromJSON)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(again, plain) {
				t.Error("the two forms say different things")
			}
			if bytes.ContainsAny(asYAML, "\t") || bytes.Contains(asYAML, []byte(": *")) {
				t.Error("the YAML holds tabs or aliases")
			}
		})
	}
	v, err := documentValidator()
	if err != nil {
		t.Fatal(err)
	}
	if ok, errs := v.ValidateDocument(); !ok {
		t.Errorf("not a valid OpenAPI document: %v", errs)
	}
}

func TestOpenAPI_ShowsTheCommandsOfTheCatalogue(t *testing.T) {
	_, asJSON, err := OpenAPI(goodCommands())
	if err != nil {
		t.Fatal(err)
	}
	compact := jsontext.Value(asJSON)
	if err := compact.Compact(); err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]string{
		"a variant for each command": `"oneOf":[{"$ref":"#/components/schemas/Command.ping"},{"$ref":"#/components/schemas/Command.set_volume"}]`,
		"the command by name":        `"command":{"type":"string","const":"set_volume"}`,
		"args needed where some are": `"required":["command","args"]`,
		"args in the author's order": `"properties":{"zone":{"$ref":"#/components/schemas/Command.set_volume/properties/args/$defs/zone"},"level":{"type":"integer","maximum":100,"minimum":0}}`,
		"a command without schema":   `"command":{"type":"string","const":"ping"},"args":{"anyOf":[{},{"type":"null"}]}}`,
	} {
		if !strings.Contains(string(compact), want) {
			t.Errorf("%s: the document lacks %s", what, want)
		}
	}
	if strings.Contains(string(compact), `"$schema"`) {
		t.Error("a $schema was left inside")
	}
}

func TestOpenAPI_FollowsTheCatalogue(t *testing.T) {
	commands := goodCommands()[:1]
	h := newHarness(t, func(c *Config) { c.Commands = func() []device.Command { return commands } })
	for _, path := range []string{"/openapi.yaml", "/openapi.json"} {
		if res := h.do(call("GET", path, "", withHeader("Authorization"))); strings.Contains(res.body, "set_volume") || !strings.Contains(res.body, "Command.ping") {
			t.Errorf("%s does not show the first catalogue", path)
		}
	}
	commands = goodCommands()
	for _, path := range []string{"/openapi.yaml", "/openapi.json"} {
		if res := h.do(call("GET", path, "", withHeader("Authorization"))); !strings.Contains(res.body, "Command.set_volume") {
			t.Errorf("%s does not show the second catalogue", path)
		}
	}
	h.fails(call("GET", "/openapi.yaml?x=1", ""), 422, device.Invalid)
	h.fails(call("GET", "/openapi.json?x=1", ""), 422, device.Invalid)
}

func TestOpenAPI_RefusesABrokenSchema(t *testing.T) {
	commands := []device.Command{{Name: "bad", Args: json.RawMessage(`{"type":`)}}
	if _, _, err := OpenAPI(commands); err == nil || !strings.Contains(err.Error(), "command bad") {
		t.Errorf("error %v does not name the command", err)
	}
}
