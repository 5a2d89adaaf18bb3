package app

import (
	"bytes"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"
)

// document is an OpenAPI document from which calls are drawn.
type document struct {
	root     map[string]any
	compiler *jsonschema.Compiler
	known    map[string]func(*rapid.T) any // values that exist, by the name of the field or parameter
}

func newDocument(t *testing.T, source []byte) *document {
	t.Helper()
	d := &document{compiler: jsonschema.NewCompiler(), known: map[string]func(*rapid.T) any{}}
	if err := json.Unmarshal(source, &d.root); err != nil {
		t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(source))
	if err != nil {
		t.Fatal(err)
	}
	d.compiler.DefaultDraft(jsonschema.Draft2020)
	if err := d.compiler.AddResource("doc.json", parsed); err != nil {
		t.Fatal(err)
	}
	return d
}

// at returns what a JSON pointer such as "#/components/schemas/Name" points to.
func (d *document) at(pointer string) map[string]any {
	node := any(d.root)
	for part := range strings.SplitSeq(strings.TrimPrefix(pointer, "#/"), "/") {
		node = node.(map[string]any)[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]
	}
	return d.resolve(node)
}

func (d *document) resolve(node any) map[string]any {
	m, _ := node.(map[string]any)
	if ref, ok := m["$ref"].(string); ok {
		return d.at(ref)
	}
	return m
}

// fits tells whether JSON text obeys the schema at a pointer.
func (d *document) fits(t *rapid.T, pointer string, text []byte) bool {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return false
	}
	schema, err := d.compiler.Compile("doc.json" + pointer)
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(value) == nil
}

// rarely is true once in a while; a test that is made smaller loses what it stands for.
func rarely(t *rapid.T, what string) bool { return rapid.IntRange(0, 19).Draw(t, what) == 19 }

// draw makes a value of a schema, and now and then another one. It knows the keywords that the document uses and no
// others; whether the value really fits is for the validator to say.
func (d *document) draw(t *rapid.T, node any, name string) any {
	if rarely(t, "anything for "+name) {
		return anything(t, name)
	}
	if known := d.known[name]; known != nil && rapid.Bool().Draw(t, "known "+name) {
		return known(t)
	}
	s := d.resolve(node)
	if c, ok := s["const"]; ok {
		return c
	}
	if list, ok := s["enum"].([]any); ok {
		return rapid.SampledFrom(list).Draw(t, name)
	}
	for _, choice := range []string{"oneOf", "allOf"} {
		if list, ok := s[choice].([]any); ok && s["properties"] == nil {
			return d.draw(t, rapid.SampledFrom(list).Draw(t, choice), name)
		}
	}
	switch typeOf(t, s) {
	case "object":
		return d.drawObject(t, s, name)
	case "array":
		n := rapid.IntRange(0, int(min(limit(s, "maxItems", 3), 8))).Draw(t, "items of "+name)
		list := make([]any, n)
		for i := range list {
			list[i] = d.draw(t, s["items"], name)
		}
		return list
	case "string":
		return drawString(t, s, name)
	case "integer", "number":
		low, high := limit(s, "minimum", -10), limit(s, "maximum", 1e6)
		edges := []float64{low, high, low - 1, high + 1, math.Floor((low + high) / 2)}
		if rapid.Bool().Draw(t, "at an edge") {
			return rapid.SampledFrom(edges).Draw(t, name)
		}
		return float64(rapid.IntRange(int(low), int(high)).Draw(t, name))
	case "boolean":
		return rapid.Bool().Draw(t, name)
	case "null":
		return nil
	default:
		return anything(t, name)
	}
}

func (d *document) drawObject(t *rapid.T, s map[string]any, name string) map[string]any {
	properties, _ := s["properties"].(map[string]any)
	wanted, _ := s["required"].([]any)
	if list, ok := s["oneOf"].([]any); ok {
		also, _ := d.resolve(rapid.SampledFrom(list).Draw(t, "oneOf"))["required"].([]any)
		wanted = slices.Concat(wanted, also)
	}
	exclusive := s["oneOf"] != nil // then a property that is not required may be one too many
	object := map[string]any{}
	for _, field := range slices.Sorted(maps.Keys(properties)) {
		needed := slices.Contains(wanted, any(field))
		if needed && !rarely(t, "leave out "+field) || !needed && rapid.Bool().Draw(t, "with "+field) && (!exclusive || rarely(t, "both")) {
			object[field] = d.draw(t, properties[field], field)
		}
	}
	if more, ok := s["additionalProperties"].(map[string]any); ok {
		for range rapid.IntRange(0, 3).Draw(t, "entries of "+name) {
			object[rapid.StringN(1, 10, -1).Draw(t, "key")] = d.draw(t, more, name)
		}
	}
	if rarely(t, "one field more") {
		object["one_field_more"] = anything(t, "one field more")
	}
	return object
}

func drawString(t *rapid.T, s map[string]any, name string) string {
	if pattern, ok := s["pattern"].(string); ok {
		return rapid.StringMatching(pattern).Draw(t, name)
	}
	low, high := int(limit(s, "minLength", 0)), int(limit(s, "maxLength", 40))
	if rarely(t, "too long") {
		return strings.Repeat("x", high+1)
	}
	return rapid.StringN(low, min(high, 40), -1).Draw(t, name)
}

func typeOf(t *rapid.T, s map[string]any) string {
	switch kind := s["type"].(type) {
	case string:
		return kind
	case []any:
		return rapid.SampledFrom(kind).Draw(t, "type").(string)
	default:
		return ""
	}
}

func limit(s map[string]any, keyword string, otherwise float64) float64 {
	if v, ok := s[keyword].(float64); ok {
		return v
	}
	return otherwise
}

// anything is JSON of any type, with what parsers stumble over.
func anything(t *rapid.T, name string) any {
	return rapid.OneOf(
		rapid.Just[any](nil),
		rapid.SampledFrom([]any{"", "\x00", "a\r\nb", "../..", "$me/#", "{request_id}", "\u202e", strings.Repeat("y", 5000)}),
		rapid.Map(rapid.String(), func(s string) any { return s }),
		rapid.SampledFrom([]any{0.0, -1.0, 0.5, 1e308, -1e-300, math.MaxInt64, true, false}),
		rapid.SampledFrom([]any{[]any{}, []any{nil}, map[string]any{}, map[string]any{"": nil}}),
	).Draw(t, name)
}
