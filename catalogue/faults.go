package catalogue

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"signaldevice/device"
)

// Bounds of what is told about bad arguments.
const (
	maxFaults      = 100 // faults in one answer
	maxBranches    = 6   // branches told of a choice that nothing fits
	maxEnumShown   = 20  // allowed values told
	maxNameInPlace = 64  // bytes of a name that a caller chose
	maxMessage     = 800 // bytes of one message
)

// invalidArguments is the answer to bad arguments: every fault in a fixed order.
func invalidArguments(faults []device.Fault) error {
	slices.SortStableFunc(faults, func(a, b device.Fault) int {
		return cmp.Or(cmp.Compare(a.Location, b.Location), cmp.Compare(a.Message, b.Message))
	})
	faults = slices.Compact(faults)
	if more := len(faults) - maxFaults; more > 0 {
		faults = append(faults[:maxFaults:maxFaults], device.Fault{Location: argsRoot, Message: fmt.Sprintf("has %d more faults", more)})
	}
	return &device.Error{Kind: device.InvalidArguments, Message: "the arguments do not fit the command", Faults: faults}
}

// found is one fault of a value: the way to it and what is wrong, in words that follow the name of a field.
type found struct {
	at      []string
	message string
}

// faultsOf puts what a schema says against a value into plain words, one for each place. It repeats no value of the
// input.
func faultsOf(err error) []found {
	if err == nil {
		return nil
	}
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return []found{{message: "cannot be checked"}}
	}
	return collect(nil, invalid)
}

func collect(all []found, e *jsonschema.ValidationError) []found {
	at := e.InstanceLocation
	add := func(message string, below ...string) {
		all = append(all, found{at: slices.Concat(at, below), message: message})
	}
	switch k := e.ErrorKind.(type) {
	case *kind.Schema, *kind.Group, *kind.AllOf, *kind.Reference:
		for _, cause := range e.Causes {
			all = collect(all, cause)
		}
	case *kind.Required:
		for _, name := range k.Missing {
			add("is required", name)
		}
	case *kind.DependentRequired:
		for _, name := range k.Missing {
			add("is required together with "+shownName(k.Prop), name)
		}
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			add("is not known here", name)
		}
	case *kind.PropertyNames:
		// jsonschema v6.0.3 shares the memory of this one location with later ones, so it may name another place.
		all = append(all, found{message: "has a field whose name is not allowed: " + shownName(k.Property)})
	case *kind.AnyOf:
		add(choice(e))
	case *kind.OneOf:
		if len(k.Subschemas) > 0 {
			add("fits more than one of the allowed forms, and must fit one only")
		} else {
			add(choice(e))
		}
	default:
		add(message(e.ErrorKind))
	}
	return all
}

// choice folds the branches of a failed anyOf or oneOf into one message: the caller meant one of them, and which one
// nobody can tell.
func choice(e *jsonschema.ValidationError) string {
	var branches []string
	for _, cause := range e.Causes {
		var parts []string
		for _, f := range collect(nil, cause) {
			if below := f.at[min(len(f.at), len(e.InstanceLocation)):]; len(below) > 0 {
				parts = append(parts, strings.TrimPrefix(place("", below), ".")+" "+f.message)
			} else {
				parts = append(parts, f.message)
			}
		}
		slices.Sort(parts)
		branches = append(branches, strings.Join(parts, " and "))
	}
	branches = slices.Compact(branches)
	if len(branches) == 1 {
		return shorten(branches[0])
	}
	if more := len(branches) - maxBranches; more > 0 {
		branches = append(branches[:maxBranches], fmt.Sprintf("one of %d more", more))
	}
	return shorten("fits none of the allowed forms: either " + strings.Join(branches, "; or "))
}

// shorten bounds a message that grew out of many.
func shorten(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage], "") + " …"
}

// message puts one broken rule into words that follow the name of a field.
func message(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		return "must be " + typeNames(k.Want)
	case *kind.Enum:
		return "must be one of " + values(k.Want)
	case *kind.Const:
		return "must be " + values([]any{k.Want})
	case *kind.Minimum:
		return "must be at least " + number(k.Want)
	case *kind.Maximum:
		return "must be at most " + number(k.Want)
	case *kind.ExclusiveMinimum:
		return "must be more than " + number(k.Want)
	case *kind.ExclusiveMaximum:
		return "must be less than " + number(k.Want)
	case *kind.MultipleOf:
		return "must be a multiple of " + number(k.Want)
	case *kind.MinLength:
		return "must have at least " + count(k.Want, "character")
	case *kind.MaxLength:
		return "must have at most " + count(k.Want, "character")
	case *kind.MinItems:
		return "must have at least " + count(k.Want, "item")
	case *kind.MaxItems:
		return "must have at most " + count(k.Want, "item")
	case *kind.MinProperties:
		return "must have at least " + count(k.Want, "field")
	case *kind.MaxProperties:
		return "must have at most " + count(k.Want, "field")
	case *kind.UniqueItems:
		return fmt.Sprintf("must not hold a value twice (items %d and %d are equal)", k.Duplicates[0], k.Duplicates[1])
	case *kind.Pattern:
		return "must match the pattern " + k.Want
	case *kind.Format:
		return "must be a valid " + k.Want
	case *kind.FalseSchema:
		return "is not known here"
	case *kind.Not:
		return "is a combination that is not allowed"
	case *kind.Contains:
		return "lacks an item that must be there"
	case *kind.MinContains:
		return "must have at least " + count(k.Want, "item") + " of the required sort"
	case *kind.MaxContains:
		return "must have at most " + count(k.Want, "item") + " of the limited sort"
	case *kind.RefCycle:
		return "cannot be checked: its schema refers to itself without end"
	default:
		return "does not fit"
	}
}

func typeNames(types []string) string {
	names := make([]string, len(types))
	for i, t := range types {
		switch t {
		case "object":
			names[i] = "an object"
		case "array":
			names[i] = "a list"
		case "string":
			names[i] = "text"
		case "integer":
			names[i] = "a whole number"
		case "number":
			names[i] = "a number"
		case "boolean":
			names[i] = "true or false"
		default:
			names[i] = t
		}
	}
	return strings.Join(names, " or ")
}

// values lists values of the schema, never of the input.
func values(vs []any) string {
	var shown []string
	for _, v := range vs[:min(len(vs), maxEnumShown)] {
		text, err := json.Marshal(v)
		if err != nil {
			text = []byte("?")
		}
		shown = append(shown, string(text))
	}
	if more := len(vs) - len(shown); more > 0 {
		shown = append(shown, fmt.Sprintf("%d more", more))
	}
	return strings.Join(shown, ", ")
}

func number(r *big.Rat) string {
	f, _ := r.Float64()
	return strconv.FormatFloat(f, 'g', -1, 64)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// place writes the way to a value as people read it: args.zones[2].name.
func place(root string, steps []string) string {
	var b strings.Builder
	b.WriteString(root)
	for _, step := range steps {
		if _, err := strconv.ParseUint(step, 10, 32); err == nil {
			b.WriteString("[" + step + "]")
			continue
		}
		b.WriteString("." + shownName(step))
	}
	return b.String()
}

// shownName returns a name that may come from the input, and "?" for one that could do harm where it is shown.
func shownName(name string) string {
	if name == "" || len(name) > maxNameInPlace {
		return "?"
	}
	for _, c := range name {
		if !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("_-$@ ", c) {
			return "?"
		}
	}
	return name
}
