package httpapi

import (
	"bytes"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v4"
)

// The document is handled as YAML nodes, because they keep the order in which authors wrote fields: forms made from a
// schema show them in that order, and a Go map would sort them.

type pair struct {
	name  string
	value *yaml.Node
}

func object(members ...pair) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, m := range members {
		n.Content = append(n.Content, text(m.name), m.value)
	}
	return n
}

func array(items ...*yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: items}
}

func text(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

func boolean(b bool) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(b)}
}

// member walks down an object by names; nil where there is none.
func member(n *yaml.Node, names ...string) *yaml.Node {
	for _, name := range names {
		i := index(n, name)
		if i < 0 {
			return nil
		}
		n = n.Content[i+1]
	}
	return n
}

// index returns where in an object's content the name stands, -1 where it does not.
func index(n *yaml.Node, name string) int {
	if n.Kind != yaml.MappingNode {
		return -1
	}
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return i
		}
	}
	return -1
}

func set(n *yaml.Node, name string, value *yaml.Node) {
	if i := index(n, name); i >= 0 {
		n.Content[i+1] = value
		return
	}
	n.Content = append(n.Content, text(name), value)
}

func remove(n *yaml.Node, name string) {
	if i := index(n, name); i >= 0 {
		n.Content = append(n.Content[:i], n.Content[i+2:]...)
	}
}

// expand puts what they stand for in the place of references to anchors, which JSON does not have.
func expand(n *yaml.Node) {
	for i, child := range n.Content {
		if child.Kind == yaml.AliasNode {
			child = child.Alias
			n.Content[i] = child
		}
		child.Anchor = ""
		expand(child)
	}
}

// jsonToNode reads the next JSON value.
func jsonToNode(dec *jsontext.Decoder) (*yaml.Node, error) {
	token, err := dec.ReadToken()
	if err != nil {
		return nil, err
	}
	switch token.Kind() {
	case jsontext.KindBeginObject:
		return childrenOf(object(), dec, jsontext.KindEndObject)
	case jsontext.KindBeginArray:
		return childrenOf(array(), dec, jsontext.KindEndArray)
	case jsontext.KindString:
		return text(token.String()), nil
	case jsontext.KindNumber:
		return number(token.String()), nil
	case jsontext.KindTrue, jsontext.KindFalse:
		return boolean(token.Bool()), nil
	default:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
	}
}

// childrenOf reads names and values alike: an object's content is both in turn.
func childrenOf(n *yaml.Node, dec *jsontext.Decoder, end jsontext.Kind) (*yaml.Node, error) {
	for dec.PeekKind() != end {
		child, err := jsonToNode(dec)
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, child)
	}
	_, err := dec.ReadToken()
	return n, err
}

// number keeps the digits as they were written.
func number(digits string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: digits}
	if bytes.ContainsAny([]byte(digits), ".eE") {
		n.Tag = "!!float"
	}
	return n
}

// nodeToJSON writes a node as JSON with its fields in their order. It knows what JSON knows: no anchors, no dates.
func nodeToJSON(n *yaml.Node) ([]byte, error) {
	var b bytes.Buffer
	enc := jsontext.NewEncoder(&b, jsontext.WithIndent("  "))
	if err := encodeNode(enc, n); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func encodeNode(enc *jsontext.Encoder, n *yaml.Node) error {
	switch {
	case n.Kind == yaml.MappingNode:
		return encodeChildren(enc, n, jsontext.BeginObject, jsontext.EndObject)
	case n.Kind == yaml.SequenceNode:
		return encodeChildren(enc, n, jsontext.BeginArray, jsontext.EndArray)
	case n.Kind != yaml.ScalarNode:
		return fmt.Errorf("line %d: this kind of node has no JSON form", n.Line)
	}
	switch n.ShortTag() {
	case "!!bool", "!!null", "!!int", "!!float":
		return enc.WriteValue(jsontext.Value(n.Value))
	default:
		return enc.WriteToken(jsontext.String(n.Value))
	}
}

func encodeChildren(enc *jsontext.Encoder, n *yaml.Node, begin, end jsontext.Token) error {
	if err := enc.WriteToken(begin); err != nil {
		return err
	}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			child = text(child.Value) // 404 is a number in YAML, a name in JSON
		}
		if err := encodeNode(enc, child); err != nil {
			return err
		}
	}
	return enc.WriteToken(end)
}
