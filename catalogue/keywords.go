package catalogue

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"signaldevice/catalogue/configfile"
)

// ownKeyword is how keywords begin that JSON Schema does not have and that a file may use for itself.
const ownKeyword = "x-"

// keyword is one keyword of JSON Schema 2020-12.
type keyword struct {
	holds content
	of    string // the one type of value that it says something of, "number" also for whole ones; "": any
}

// content is what stands under a keyword.
type content int

const (
	plainValue content = iota
	oneSchema
	schemaList
	schemaMap
)

var keywords = map[string]keyword{
	"$schema": {}, "$id": {}, "$ref": {}, "$anchor": {}, "$dynamicRef": {}, "$dynamicAnchor": {}, "$vocabulary": {}, "$comment": {},
	"title": {}, "description": {}, "default": {}, "examples": {}, "deprecated": {}, "readOnly": {}, "writeOnly": {},
	"type": {}, "enum": {}, "const": {},
	"$defs": {holds: schemaMap},
	"allOf": {holds: schemaList}, "anyOf": {holds: schemaList}, "oneOf": {holds: schemaList},
	"not": {holds: oneSchema}, "if": {holds: oneSchema}, "then": {holds: oneSchema}, "else": {holds: oneSchema},

	"minimum": {of: "number"}, "maximum": {of: "number"}, "exclusiveMinimum": {of: "number"}, "exclusiveMaximum": {of: "number"},
	"multipleOf": {of: "number"},

	"minLength": {of: "string"}, "maxLength": {of: "string"}, "pattern": {of: "string"}, "format": {of: "string"},
	"contentEncoding": {of: "string"}, "contentMediaType": {of: "string"}, "contentSchema": {holds: oneSchema, of: "string"},

	"items": {holds: oneSchema, of: "array"}, "prefixItems": {holds: schemaList, of: "array"},
	"unevaluatedItems": {holds: oneSchema, of: "array"}, "contains": {holds: oneSchema, of: "array"},
	"minContains": {of: "array"}, "maxContains": {of: "array"},
	"minItems": {of: "array"}, "maxItems": {of: "array"}, "uniqueItems": {of: "array"},

	"properties": {holds: schemaMap, of: "object"}, "patternProperties": {holds: schemaMap, of: "object"},
	"additionalProperties": {holds: oneSchema, of: "object"}, "unevaluatedProperties": {holds: oneSchema, of: "object"},
	"propertyNames": {holds: oneSchema, of: "object"}, "dependentSchemas": {holds: schemaMap, of: "object"},
	"dependentRequired": {of: "object"}, "required": {of: "object"},
	"minProperties": {of: "object"}, "maxProperties": {of: "object"},
}

// formats are those that values are checked against.
var formats = []string{
	"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "iri", "iri-reference", "json-pointer", "period",
	"regex", "relative-json-pointer", "semver", "time", "uri", "uri-reference", "uri-template", "uuid",
}

// bounds are pairs of keywords of which the first must not be above the second.
var bounds = [][2]string{
	{"minimum", "maximum"}, {"minLength", "maxLength"}, {"minItems", "maxItems"}, {"minContains", "maxContains"},
	{"minProperties", "maxProperties"},
}

// visit calls fn for a schema and for every schema inside it, with the way to each.
func visit(value any, at []string, fn func(at []string, schema map[string]any)) {
	schema, ok := value.(map[string]any)
	if !ok {
		return // true, or false
	}
	fn(at, schema)
	for _, name := range slices.Sorted(maps.Keys(schema)) {
		switch keywords[name].holds {
		case oneSchema:
			visit(schema[name], join(at, name), fn)
		case schemaList:
			list, _ := schema[name].([]any)
			for i, one := range list {
				visit(one, join(at, name, strconv.Itoa(i)), fn)
			}
		case schemaMap:
			named, _ := schema[name].(map[string]any)
			for _, key := range slices.Sorted(maps.Keys(named)) {
				visit(named[key], join(at, name, key), fn)
			}
		case plainValue:
		}
	}
}

// join returns the way that leads on. It shares no memory with the one before.
func join(at []string, steps ...string) []string { return slices.Concat(at, steps) }

// checkKeywords returns the faults of a schema that JSON Schema allows, but that its author cannot have meant.
func checkKeywords(doc map[string]any, compiler *jsonschema.Compiler, node *yaml.Node, line int) configfile.Faults {
	var faults configfile.Faults
	fault := func(at []string, format string, args ...any) {
		here := line
		if node != nil {
			here = configfile.Line(node, at...)
		}
		faults = append(faults, configfile.Faultf(here, "%s %s", place(argsRoot, at), fmt.Sprintf(format, args...)))
	}
	visit(doc, nil, func(at []string, schema map[string]any) {
		for _, name := range slices.Sorted(maps.Keys(schema)) {
			if _, known := keywords[name]; !known && !strings.HasPrefix(name, ownKeyword) {
				fault(join(at, name), "is not a keyword of JSON Schema%s", configfile.DidYouMean(name, slices.Sorted(maps.Keys(keywords))))
			}
		}
		if format, given := schema["format"].(string); given && !slices.Contains(formats, format) {
			fault(join(at, "format"), "%q is not one that is checked%s", format, configfile.DidYouMean(format, formats))
		}
		for _, pair := range bounds {
			if above(schema[pair[0]], schema[pair[1]]) {
				fault(join(at, pair[0]), "is more than %s, so that nothing fits", pair[1])
			}
		}
		for i, name := range impossible(schema) {
			if name != "" {
				fault(join(at, "required", strconv.Itoa(i)), "%q is not among the properties, and no other is allowed", name)
			}
		}
		for _, sample := range samples(schema) {
			for _, f := range judgeSample(compiler, at, sample.value) {
				fault(join(at, append(sample.at, f.at...)...), "%s", f.message)
			}
		}
	})
	return faults
}

// above reports whether both are numbers and the first is the greater one.
func above(low, high any) bool {
	l, ok := low.(json.Number)
	if !ok {
		return false
	}
	h, ok := high.(json.Number)
	return ok && rational(l).Cmp(rational(h)) > 0
}

// impossible returns the required names that no value may have, "" for each that it may.
func impossible(schema map[string]any) []string {
	if schema["additionalProperties"] != false || schema["patternProperties"] != nil {
		return nil
	}
	properties, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	names := make([]string, len(required))
	for i, name := range required {
		if text, ok := name.(string); ok && properties[text] == nil {
			names[i] = text
		}
	}
	return names
}

// sample is a value that a schema gives as an example of itself.
type sample struct {
	at    []string
	value any
}

func samples(schema map[string]any) []sample {
	var all []sample
	if value, given := schema["default"]; given {
		all = append(all, sample{[]string{"default"}, value})
	}
	examples, _ := schema["examples"].([]any)
	for i, value := range examples {
		all = append(all, sample{[]string{"examples", strconv.Itoa(i)}, value})
	}
	return all
}

// judgeSample returns what the schema at the place says against a value.
func judgeSample(compiler *jsonschema.Compiler, at []string, value any) []found {
	var pointer strings.Builder
	for _, step := range at {
		step = strings.NewReplacer("~", "~0", "/", "~1").Replace(step)
		pointer.WriteString("/" + url.PathEscape(step))
	}
	schema, err := compiler.Compile(schemaURL + "#" + pointer.String())
	if err != nil {
		return []found{{message: "stands in a schema that cannot be used alone"}}
	}
	return faultsOf(schema.Validate(value))
}
