package catalogue

import (
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// withArgs is a file with these args, which stand on line 4.
func withArgs(args string) string {
	return "commands:\n  - name: a\n    permission: p\n    args: {" + args + "}\n"
}

func TestLoad_RefusesSchemasThatNobodyCanMean(t *testing.T) {
	property := func(rules string) string { return withArgs("properties: {x: {" + rules + "}}") }
	tests := map[string]struct {
		file string
		want string // "": it is taken
	}{
		"a slip of the pen":                 {property("maxmum: 5"), "line 4: args.properties.x.maxmum is not a keyword of JSON Schema: did you mean maximum?"},
		"one at the top":                    {withArgs("requird: [x]"), "args.requird is not a keyword of JSON Schema: did you mean required?"},
		"one in a list":                     {withArgs("oneOf: [{}, {propertys: {}}]"), "args.oneOf[1].propertys is not a keyword of JSON Schema: did you mean properties?"},
		"one in a definition":               {withArgs("$defs: {d: {items: {minimun: 1}}}"), "args.$defs.d.items.minimun is not a keyword"},
		"one in the condition":              {withArgs("if: {}, then: {not: {maxlength: 1}}"), "args.then.not.maxlength is not a keyword of JSON Schema: did you mean maxLength?"},
		"a keyword of an older draft":       {withArgs("definitions: {}"), "args.definitions is not a keyword of JSON Schema"},
		"a keyword of its own":              {property("x-unit: percent"), ""},
		"an unknown name where any is good": {withArgs("properties: {maxmum: {examples: [{maxmum: 1}], enum: [{maxmum: 1}], const: {maxmum: 1}}}"), ""},
		"a value that looks like a keyword": {property("const: {maxmum: 1}"), ""},
		"a field that looks like a keyword": {withArgs("properties: {minimum: {type: string}}, required: [minimum]"), ""},

		"a format with a slip":     {property("format: datetime"), `args.properties.x.format "datetime" is not one that is checked: did you mean date-time?`},
		"a format of another sort": {property("format: colour"), `args.properties.x.format "colour" is not one that is checked`},

		"bounds that meet":                     {property("minimum: 5, maximum: 5"), ""},
		"bounds the wrong way round":           {property("minimum: 5.0001, maximum: 5"), "args.properties.x.minimum is more than maximum, so that nothing fits"},
		"lengths the wrong way round":          {property("minLength: 2, maxLength: 1"), "args.properties.x.minLength is more than maxLength"},
		"counts the wrong way round":           {property("minItems: 2, maxItems: 1"), "args.properties.x.minItems is more than maxItems"},
		"counts of a sort the wrong way round": {property("contains: {}, minContains: 2, maxContains: 1"), "args.properties.x.minContains is more than maxContains"},
		"fields the wrong way round":           {property("minProperties: 2, maxProperties: 1"), "args.properties.x.minProperties is more than maxProperties"},

		"a field that must and may not be":      {withArgs("required: [y], additionalProperties: false, properties: {x: {}}"), `args.required[0] "y" is not among the properties, and no other is allowed`},
		"one beside patterns":                   {withArgs("required: [y], additionalProperties: false, patternProperties: {y: {}}"), ""},
		"one where any is allowed":              {withArgs("required: [y], properties: {x: {}}"), ""},
		"one that is of a rule's own":           {withArgs("required: [y], additionalProperties: {type: string}"), ""},
		"one that is always allowed":            {withArgs("required: [y], additionalProperties: false, properties: {y: true}"), ""},
		"one of the second form":                {withArgs("properties: {x: {}, y: {}}, additionalProperties: false, anyOf: [{required: [x]}, {required: [y]}]"), ""},
		"a default that fits":                   {property("type: integer, maximum: 5, default: 5"), ""},
		"a default that does not":               {property("type: integer, maximum: 5, default: 6"), "args.properties.x.default must be at most 5"},
		"a default of another type":             {property("type: [integer, boolean], default: high"), "args.properties.x.default must be true or false or a whole number"},
		"a default with a fault inside":         {property("items: {type: integer}, default: [1, a]"), "args.properties.x.default[1] must be a whole number"},
		"a default by reference":                {withArgs("properties: {x: {$ref: '#/$defs/d', default: 6}}, $defs: {d: {maximum: 5}}"), "args.properties.x.default must be at most 5"},
		"a default under an odd name":           {withArgs("properties: {'a/b~ %?#': {maximum: 5, default: 6}}"), "args.properties.?.default must be at most 5"},
		"a default in a schema of its own name": {withArgs("$defs: {d: {$id: 'https://example.org/d', maximum: 5, default: 6}}"), "args.$defs.d.default must be at most 5"},
		"an example that does not fit":          {property("enum: [low, high], examples: [low, middle]"), `args.properties.x.examples[1] must be one of "low", "high"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Load([]byte(tt.file))
			if tt.want == "" {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "line 4: ") {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// What is told of as a keyword or a format has to be one for the library that judges.
func TestKeywordsAndFormats_AreThoseOfTheLibrary(t *testing.T) {
	for _, format := range formats {
		compiler := newCompiler()
		schema, err := compile(compiler, map[string]any{"format": format})
		if err != nil || schema.Format == nil {
			t.Errorf("%s is not checked: %v", format, err)
		}
	}
	known := map[string]bool{}
	for _, vocabulary := range []string{"core", "applicator", "unevaluated", "validation", "meta-data", "format-assertion", "content"} {
		schema, err := jsonschema.NewCompiler().Compile("https://json-schema.org/draft/2020-12/meta/" + vocabulary)
		if err != nil {
			t.Fatal(err)
		}
		for name := range schema.Properties {
			known[name] = true
			if _, ours := keywords[name]; !ours {
				t.Errorf("%s is missing", name)
			}
		}
	}
	for name := range keywords {
		if !known[name] {
			t.Errorf("%s is no keyword", name)
		}
	}
}
