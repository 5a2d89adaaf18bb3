// Package configfile reads the files that people write: strictly, with every fault and its line, and again when they
// change.
//
// Decode takes one YAML document, refuses unknown and repeated fields, and names the line of each fault. Live holds the
// newest good version of a file: a bad one is reported and the version before it stays. The package knows nothing of
// what the files mean, and it never writes one.
//
// Faults are plain values. A Live is safe for concurrent use.
package configfile

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// shownFaults bounds the text of an error; the Faults themselves are all there.
const shownFaults = 20

// Fault is one fault of a file.
type Fault struct {
	Line    int // counted from 1; 0 where the fault has no line
	Message string
}

// Faultf returns a fault on the line.
func Faultf(line int, format string, args ...any) Fault {
	return Fault{Line: line, Message: fmt.Sprintf(format, args...)}
}

// String returns "line 7: message".
func (f Fault) String() string {
	if f.Line == 0 {
		return f.Message
	}
	return "line " + strconv.Itoa(f.Line) + ": " + f.Message
}

// Faults is every fault that was found in a file. It is an error where it is not empty.
type Faults []Fault

// Error lists the first faults, each with its line.
func (f Faults) Error() string {
	shown := f[:min(len(f), shownFaults)]
	parts := make([]string, 0, len(shown)+1)
	for _, fault := range shown {
		parts = append(parts, fault.String())
	}
	if more := len(f) - len(shown); more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(parts, "; ")
}

// Err returns the faults as an error, nil where there are none.
func (f Faults) Err() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// FaultsOf returns the Faults that err is, or one without a line that says what err says. Nil: none.
func FaultsOf(err error) Faults {
	if err == nil {
		return nil
	}
	if faults, ok := errors.AsType[Faults](err); ok {
		return faults
	}
	return Faults{{Message: err.Error()}}
}

// Decode reads the one YAML document in data into out, a pointer to a struct. No data at all, more than maxBytes, a
// second document, an unknown field or a repeated one are Faults.
func Decode(data []byte, maxBytes int, out any) error {
	if len(data) > maxBytes {
		return Faults{Faultf(0, "the file is larger than %d bytes", maxBytes)}
	}
	return faultsOf(yaml.Load(data, out, yaml.WithKnownFields()), out).Err()
}

// DecodeNode reads one value of a document as Decode reads the whole.
func DecodeNode(node *yaml.Node, out any) Faults {
	return faultsOf(node.Load(out, yaml.WithKnownFields()), out)
}

func faultsOf(err error, out any) Faults {
	if err == nil {
		return nil
	}
	if many, ok := errors.AsType[*yaml.LoadErrors](err); ok {
		faults := make(Faults, 0, len(many.Errors))
		for _, one := range many.Errors {
			faults = append(faults, faultOf(one, out))
		}
		return faults
	}
	if one, ok := errors.AsType[*yaml.LoadError](err); ok {
		return Faults{faultOf(one, out)}
	}
	return Faults{{Message: err.Error()}}
}

// faultOf leaves out what only a reader of our code understands: names of Go types. A field that out does not have is
// told with the one that was probably meant.
func faultOf(err *yaml.LoadError, out any) Fault {
	message := strings.TrimPrefix(err.Message, "yaml: ")
	if rest, ok := strings.CutPrefix(message, "field "); ok {
		if name, goType, ok := strings.Cut(rest, " not found in type "); ok {
			message = "unknown field " + strconv.Quote(name) + DidYouMean(name, fieldsOf(reflect.TypeOf(out), goType))
		}
	}
	if what, goType, ok := strings.Cut(message, " into "); ok && strings.HasPrefix(message, "cannot construct ") {
		message = strings.Replace(what, "cannot construct", "cannot take", 1) + " as " + yamlType(goType)
	}
	return Fault{Line: err.Mark.Line, Message: message}
}

// fieldsOf returns the names of the fields of a struct type that is t or part of it.
func fieldsOf(t reflect.Type, goType string) []string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return fieldsOf(t.Elem(), goType)
	case reflect.Struct:
	default:
		return nil
	}
	var names []string
	for field := range t.Fields() {
		name, tagged := field.Tag.Lookup("yaml")
		if !tagged {
			continue // a type of the library
		}
		if t.String() == goType {
			names = append(names, name)
		} else if inside := fieldsOf(field.Type, goType); inside != nil {
			return inside
		}
	}
	return names
}

func yamlType(goType string) string {
	switch {
	case goType == "bool":
		return "true or false"
	case goType == "string":
		return "text"
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	default:
		return "a mapping of fields"
	}
}

// Field returns the value of a field of a mapping, nil where it is not there. Aliases are followed.
func Field(node *yaml.Node, name string) *yaml.Node {
	node = Resolve(node)
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == name {
			return Resolve(node.Content[i+1])
		}
	}
	return nil
}

// Resolve returns what an alias stands for, and any other node as it is.
func Resolve(node *yaml.Node) *yaml.Node {
	for node != nil && node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node
}

// Line returns the line of the value that a path of field names and list indexes leads to, or of the last one on the way
// that is there.
func Line(node *yaml.Node, path ...string) int {
	line := node.Line
	for _, step := range path {
		next := Field(node, step)
		if next == nil {
			next = item(node, step)
		}
		if next == nil {
			return line
		}
		node, line = next, next.Line
	}
	return line
}

func item(node *yaml.Node, index string) *yaml.Node {
	node = Resolve(node)
	i, err := strconv.Atoi(index)
	if err != nil || node == nil || node.Kind != yaml.SequenceNode || i < 0 || i >= len(node.Content) {
		return nil
	}
	return Resolve(node.Content[i])
}
