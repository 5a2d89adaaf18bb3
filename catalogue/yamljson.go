package catalogue

import (
	"bytes"
	"encoding/json"
	"strings"

	"go.yaml.in/yaml/v4"

	"signaldevice/catalogue/configfile"
)

// maxJSONBytes bounds the JSON of one field, so that aliases cannot make a small file large.
const maxJSONBytes = 64 << 10

// toJSON writes a field of the file as JSON, with names and numbers in the order and the form of their author.
func toJSON(node *yaml.Node, field string) (json.RawMessage, configfile.Faults) {
	w := jsonWriter{of: field}
	w.value(node, 0)
	if len(w.faults) > 0 {
		return nil, w.faults
	}
	return w.buf.Bytes(), nil
}

// jsonWriter turns YAML nodes into JSON and keeps the order of fields.
type jsonWriter struct {
	of     string // the field that is written, for faults
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
	case w.buf.Len() > maxJSONBytes:
		w.fault(here, w.of+" must not be larger than 65536 bytes")
	case node.Kind == yaml.ScalarNode:
		w.scalar(node)
	case depth == maxDepth:
		w.fault(here, w.of+" must not be nested more than 64 deep")
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
			w.fault(node.Content[i], "a field name in "+w.of+" must be text: put it in quotes")
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
		w.fault(node, w.of+" must not hold a value that JSON cannot express")
	}
}

// number takes a number as its author wrote it, so that the form shows 0.10 as 0.10.
func (w *jsonWriter) number(node *yaml.Node) {
	if !json.Valid([]byte(node.Value)) {
		w.fault(node, "a number in "+w.of+" must be written as in JSON, such as 17, -0.5 or 1e3")
		return
	}
	if message := numberFault(node.Value); message != "" {
		w.fault(node, "a number in "+w.of+" "+message)
		return
	}
	w.buf.WriteString(node.Value)
}

func (w *jsonWriter) text(s string) {
	w.buf.Write(quote(s))
}
