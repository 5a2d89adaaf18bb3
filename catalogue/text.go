package catalogue

import (
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v4"

	"signaldevice/catalogue/configfile"
	"signaldevice/device"
)

// maxTextForm bounds the line and the pattern of a text form, in bytes.
const maxTextForm = 1024

// Groups of a reply pattern that have a meaning. Every other named group is a field of the result.
const (
	groupRequestID    = "request_id"    // must be the id of the request
	groupResult       = "result"        // is the whole result
	groupErrorCode    = "error_code"    // where it took part, the reply is an error
	groupErrorMessage = "error_message" // the same
)

// textForm is how a command is spoken with a device that knows no JSON.
type textForm struct {
	name    string   // what a model speaks
	at      []string // the way to it in the command's entry
	line    []textPart
	pattern string
	reply   *regexp.Regexp // pattern, for a whole line
}

// textPart is a piece of the line: fixed text, or the place of an argument.
type textPart struct {
	fixed    string
	arg      string // "" for fixed text
	fallback any    // the argument's default in the schema; nil: it is required
}

// newTextForm checks a text form of the command in node against the schema of the arguments that it writes.
func newTextForm(t textSource, schema map[string]any, node *yaml.Node) (*textForm, configfile.Faults) {
	var faults configfile.Faults
	fault := func(field string, err error) {
		way := join(t.at, field)
		faults = append(faults, configfile.Faultf(configfile.Line(node, way...), "%s %v", fieldName(way), err))
	}
	line, err := parseLine(t.Send, schema)
	if err != nil {
		fault("send", err)
	}
	reply, err := compileReply(t.Reply)
	if err != nil {
		fault("reply", err)
	}
	return &textForm{name: t.name, at: t.at, line: line, pattern: t.Reply, reply: reply}, faults
}

// fieldName writes the way to a field of an entry as people read it: text.examples[2].send.
func fieldName(at []string) string { return place(at[0], at[1:]) }

// parseLine splits "VOL {request_id} {volume}" at its places.
func parseLine(line string, schema map[string]any) ([]textPart, error) {
	if line == "" || len(line) > maxTextForm {
		return nil, fmt.Errorf("must have 1 to %d bytes", maxTextForm)
	}
	if fault := valueFault(strings.NewReplacer("{", "", "}", "").Replace(line)); fault != "" {
		return nil, fmt.Errorf("%s", fault)
	}
	var parts []textPart
	for rest := line; rest != ""; {
		fixed, after, found := strings.Cut(rest, "{")
		name, next, closed := strings.Cut(after, "}")
		if strings.Contains(fixed, "}") || found && !closed {
			return nil, fmt.Errorf("has a brace without its partner")
		}
		if fixed != "" {
			parts = append(parts, textPart{fixed: fixed})
		}
		if found {
			part, err := placePart(name, schema)
			if err != nil {
				return nil, err
			}
			parts = append(parts, part)
		}
		rest = next
	}
	return parts, checkRequestIDToken(line)
}

// placePart returns the part for {name}. Its argument is always there: it is required or has a default.
func placePart(name string, schema map[string]any) (textPart, error) {
	if name == groupRequestID {
		return textPart{fixed: device.Placeholder}, nil
	}
	properties, _ := schema["properties"].(map[string]any)
	property, declared := properties[name]
	if !declared {
		return textPart{}, fmt.Errorf("has a place {%s} that is not among the properties of args", name)
	}
	required, _ := schema["required"].([]any)
	if slices.Contains(required, any(name)) {
		return textPart{arg: name}, nil
	}
	definition, _ := property.(map[string]any)
	fallback := definition["default"]
	if _, fault := textValue(fallback); fault != "" {
		return textPart{}, fmt.Errorf("has a place {%s} whose argument is neither required nor has a default that fits a line", name)
	}
	return textPart{arg: name, fallback: fallback}, nil
}

// checkRequestIDToken makes sure that a device can find the request id: nothing that an id may hold touches it.
func checkRequestIDToken(line string) error {
	pieces := strings.Split(line, device.Placeholder)
	if len(pieces) == 1 {
		return fmt.Errorf("must hold %s", device.Placeholder)
	}
	for i, piece := range pieces {
		before, _ := utf8.DecodeRuneInString(piece)
		after, _ := utf8.DecodeLastRuneInString(piece)
		if i > 0 && touches(before) || i < len(pieces)-1 && touches(after) {
			return fmt.Errorf("must hold %s as a word of its own", device.Placeholder)
		}
	}
	return nil
}

func touches(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_{}", c)
}

// compileReply compiles a pattern that has to match the whole line.
func compileReply(pattern string) (*regexp.Regexp, error) {
	if pattern == "" || len(pattern) > maxTextForm {
		return nil, fmt.Errorf("must be a pattern of 1 to %d bytes", maxTextForm)
	}
	// Compiled alone first, so that a stray bracket cannot pair with one of ours.
	if _, err := regexp.Compile(pattern); err != nil {
		return nil, fmt.Errorf("is not a pattern: %w", err)
	}
	reply, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("is not a pattern: %w", err)
	}
	if reply.SubexpIndex(groupResult) >= 0 {
		for _, name := range reply.SubexpNames() {
			if isField(name) {
				return nil, fmt.Errorf("has the group %q beside %q, which is the whole result", name, groupResult)
			}
		}
	}
	return reply, checkRequestIDGroup(pattern)
}

// checkRequestIDGroup makes sure that the group which must be the request's id takes every id.
func checkRequestIDGroup(pattern string) error {
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return fmt.Errorf("is not a pattern: %w", err)
	}
	for _, group := range groupsNamed(tree, groupRequestID) {
		takes, err := regexp.Compile(`\A(?:` + group.Sub[0].String() + `)\z`)
		if err != nil {
			return fmt.Errorf("is not a pattern: %w", err)
		}
		if !takes.MatchString(string(exampleID)) {
			return fmt.Errorf("has a group %s that does not take every request id: %d letters, digits, '-' and '_'", groupRequestID, device.RequestIDLen)
		}
	}
	return nil
}

// groupsNamed returns the groups of a pattern that have the name.
func groupsNamed(tree *syntax.Regexp, name string) []*syntax.Regexp {
	var groups []*syntax.Regexp
	if tree.Op == syntax.OpCapture && tree.Name == name {
		groups = append(groups, tree)
	}
	for _, sub := range tree.Sub {
		groups = append(groups, groupsNamed(sub, name)...)
	}
	return groups
}

func isField(group string) bool {
	switch group {
	case "", groupRequestID, groupResult, groupErrorCode, groupErrorMessage:
		return false
	}
	return true
}

// render writes the line, with device.Placeholder where the broker puts the request id.
func (t *textForm) render(args map[string]any) ([]byte, []device.Fault) {
	var line []byte
	var faults []device.Fault
	for _, part := range t.line {
		if part.arg == "" {
			line = append(line, part.fixed...)
			continue
		}
		value, given := args[part.arg]
		if !given {
			value = part.fallback
		}
		text, fault := textValue(value)
		if fault != "" {
			faults = append(faults, device.Fault{Location: place(argsRoot, []string{part.arg}), Message: fault})
		}
		line = append(line, text...)
	}
	if _, found := device.FindRequestID(line); found { // an echo of it would answer another request
		faults = append(faults, device.Fault{Location: argsRoot, Message: "must not hold anything of the form of a request id"})
	}
	return line, faults
}

// textValue writes one value into a line, or tells why it cannot be there.
func textValue(value any) (text, fault string) {
	switch v := value.(type) {
	case string:
		return v, valueFault(v)
	case json.Number:
		return decimal(v), ""
	case bool:
		return fmt.Sprint(v), ""
	default:
		return "", "must be text, a number, true or false: the device is sent a line of text"
	}
}

// decimal writes a number without an exponent, and a whole one without a point: a device of text has no parser for JSON.
func decimal(n json.Number) string {
	r := rational(n)
	if r.IsInt() {
		return r.Num().String()
	}
	mantissa, exponent, _ := strings.Cut(strings.ToLower(n.String()), "e")
	if exponent == "" {
		return n.String()
	}
	_, fraction, _ := strings.Cut(mantissa, ".")
	shift, _ := strconv.Atoi(exponent) // numberFault has bounded it
	return r.FloatString(max(0, len(fraction)-shift))
}

// rational returns a number that numberFault has nothing against.
func rational(n json.Number) *big.Rat {
	r, ok := new(big.Rat).SetString(n.String())
	if !ok {
		panic("catalogue: a number that was read is none")
	}
	return r
}

// valueFault keeps a value from ending the line and from looking like the place of a request id.
func valueFault(text string) string {
	for _, c := range text {
		if unicode.IsControl(c) || unicode.In(c, unicode.Zl, unicode.Zp) {
			return "must not hold line ends or control characters: the device is sent a line of text"
		}
		if c == '{' || c == '}' {
			return "must not hold braces: the device is sent a line of text"
		}
	}
	return ""
}

// read applies the reply pattern. ok is false where it does not match or names another request.
func (t *textForm) read(id device.RequestID, line string) (answer device.Answer, ok bool) {
	line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	match := t.reply.FindStringSubmatchIndex(line)
	if match == nil {
		return device.Answer{}, false
	}
	var failure device.AnswerError
	var fields []string
	answer.Status = device.StatusOK
	for i, name := range t.reply.SubexpNames() {
		if name == "" || match[2*i] < 0 { // a group that took no part in the match
			continue
		}
		value := line[match[2*i]:match[2*i+1]]
		switch name {
		case groupRequestID:
			if value != string(id) {
				return device.Answer{}, false
			}
		case groupResult:
			answer.Result = quote(value)
		case groupErrorCode:
			failure.Code, answer.Error = value, &failure
		case groupErrorMessage:
			failure.Message, answer.Error = value, &failure
		default:
			fields = append(fields, string(quote(name))+":"+string(quote(value)))
		}
	}
	if answer.Error != nil {
		answer.Status = device.StatusError
	}
	if len(fields) > 0 {
		answer.Result = json.RawMessage("{" + strings.Join(fields, ",") + "}")
	}
	return answer, true
}

// quote writes text as a JSON string.
func quote(text string) json.RawMessage {
	quoted, err := jsontext.AppendQuote(nil, text)
	if err != nil { // invalid UTF-8
		return quote(strings.ToValidUTF8(text, "\uFFFD"))
	}
	return quoted
}
