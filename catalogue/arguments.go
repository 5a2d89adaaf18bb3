package catalogue

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"signaldevice/device"
)

// Limits of what a JSON value may hold. JSON itself has none, and a camera's parser has less room than ours.
const (
	maxDepth       = 64  // objects and lists inside each other
	maxNumberChars = 64  // of one number
	maxExponent    = 308 // of one number, either sign; what a 64-bit float can hold
)

// argsRoot is the place that every fault of arguments starts with.
const argsRoot = "args"

var (
	errTooDeep  = errors.New("too deep")
	errTrailing = errors.New("data after the value")
)

// arguments is what a caller sent: the bytes, and the tree that a schema can judge.
type arguments struct {
	raw  []byte
	tree map[string]any // numbers are json.Number; nil: the bytes could not be read as an object
}

// readArguments refuses what a schema cannot see: bytes that are no JSON object, repeated names, more depth than
// maxDepth, numbers that no camera can hold and NUL characters.
func readArguments(raw []byte) (arguments, []device.Fault) {
	if raw = bytes.Trim(raw, " \t\r\n"); len(raw) == 0 || string(raw) == "null" {
		raw = []byte("{}")
	}
	r := argumentReader{dec: jsontext.NewDecoder(bytes.NewBuffer(raw))}
	value, err := r.document()
	if err != nil {
		return arguments{}, []device.Fault{r.syntaxFault(err)}
	}
	tree, ok := value.(map[string]any)
	if !ok {
		return arguments{}, []device.Fault{{Location: argsRoot, Message: "must be an object"}}
	}
	return arguments{raw: raw, tree: tree}, r.faults
}

// judge returns what the schema says against the arguments.
func (a arguments) judge(schema *jsonschema.Schema) []device.Fault {
	var faults []device.Fault
	for _, f := range faultsOf(schema.Validate(a.tree)) {
		faults = append(faults, device.Fault{Location: place(argsRoot, f.at), Message: f.message})
	}
	return faults
}

// compact returns the bytes without white space; nothing else of them changes.
func (a arguments) compact() json.RawMessage {
	var buf bytes.Buffer
	buf.Grow(len(a.raw))
	if err := json.Compact(&buf, a.raw); err != nil {
		panic("catalogue: arguments that were read are no JSON: " + err.Error())
	}
	return buf.Bytes()
}

// argumentReader builds the tree while it checks it, in one pass.
type argumentReader struct {
	dec    *jsontext.Decoder // refuses invalid UTF-8 and repeated names (RFC 7493)
	faults []device.Fault    // of values that can be read, but not sent
}

func (r *argumentReader) document() (any, error) {
	value, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if _, err := r.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errTrailing
	}
	return value, nil
}

func (r *argumentReader) value(depth int) (any, error) {
	token, err := r.dec.ReadToken()
	if err != nil {
		return nil, err
	}
	switch token.Kind() {
	case '{':
		return r.object(depth + 1)
	case '[':
		return r.list(depth + 1)
	case '"':
		text := token.String()
		r.checkText(text)
		return text, nil
	case '0':
		return r.number(token.String()), nil
	case 't', 'f':
		return token.Bool(), nil
	default:
		return nil, nil
	}
}

func (r *argumentReader) object(depth int) (any, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	object := map[string]any{}
	for r.dec.PeekKind() != '}' {
		token, err := r.dec.ReadToken()
		if err != nil {
			return nil, err
		}
		name := token.String()
		r.checkText(name)
		if object[name], err = r.value(depth); err != nil {
			return nil, err
		}
	}
	_, err := r.dec.ReadToken()
	return object, err
}

func (r *argumentReader) list(depth int) (any, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	list := []any{}
	for r.dec.PeekKind() != ']' {
		value, err := r.value(depth)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	_, err := r.dec.ReadToken()
	return list, err
}

func (r *argumentReader) checkText(s string) {
	if strings.ContainsRune(s, 0) {
		r.refuse("must not hold the NUL character")
	}
}

// number returns the number, or, once it is refused, a near one that the schema can judge: so its other faults are told
// in the same answer.
func (r *argumentReader) number(text string) json.Number {
	message := numberFault(text)
	if message == "" {
		return json.Number(text)
	}
	r.refuse(message)
	near, _ := strconv.ParseFloat(text, 64) // out of range: infinite
	near = max(-1e308, min(near, 1e308))
	return json.Number(strconv.FormatFloat(near, 'g', -1, 64))
}

// refuse notes a fault of the value that was read last.
func (r *argumentReader) refuse(message string) {
	if len(r.faults) <= maxFaults {
		r.faults = append(r.faults, device.Fault{Location: placeOfPointer(r.dec.StackPointer()), Message: message})
	}
}

// syntaxFault says why the bytes could not be read, without repeating them.
func (r *argumentReader) syntaxFault(err error) device.Fault {
	var syntax *jsontext.SyntacticError
	errors.As(err, &syntax)
	switch {
	case errors.Is(err, errTooDeep):
		return device.Fault{Location: argsRoot, Message: "is nested more than " + strconv.Itoa(maxDepth) + " deep"}
	case errors.Is(err, errTrailing):
		return device.Fault{Location: argsRoot, Message: "goes on after the end of its JSON value"}
	case syntax == nil:
		return device.Fault{Location: argsRoot, Message: "is not valid JSON"}
	case errors.Is(err, jsontext.ErrDuplicateName):
		return device.Fault{Location: placeOfPointer(syntax.JSONPointer), Message: "is there twice"}
	default:
		return device.Fault{Location: argsRoot, Message: "is not valid JSON at byte " + strconv.FormatInt(syntax.ByteOffset, 10)}
	}
}

// numberFault returns why a number in JSON's form is refused, or "". An exponent alone can make a short text stand for
// gigabytes of digits, so this comes before any arithmetic.
func numberFault(text string) string {
	if len(text) > maxNumberChars {
		return "must be a number of at most " + strconv.Itoa(maxNumberChars) + " characters"
	}
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		exponent, err := strconv.Atoi(text[i+1:])
		if err != nil || exponent > maxExponent || exponent < -maxExponent {
			return "must be a number with an exponent from -308 to 308"
		}
	}
	if _, err := strconv.ParseFloat(text, 64); err != nil {
		return "must be a number that a 64-bit float can hold"
	}
	return ""
}

func placeOfPointer(p jsontext.Pointer) string {
	var steps []string
	for step := range p.Tokens() {
		steps = append(steps, step)
	}
	return place(argsRoot, steps)
}
