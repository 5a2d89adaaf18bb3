package configfile

import "go.yaml.in/yaml/v4"

// Pair is one field of a mapping whose names are free.
type Pair struct {
	Name  string
	Line  int // of the name
	Value *yaml.Node
}

// Pairs reads a mapping with free names, in their order; a node that is not there has none. The field is what faults call
// the mapping. More than limit names, one that is there twice and one that is no text are faults.
func Pairs(node *yaml.Node, field string, limit int) ([]Pair, Faults) {
	node = Resolve(node)
	if node == nil || node.IsZero() || node.ShortTag() == "!!null" {
		return nil, nil
	}
	if node.Kind != yaml.MappingNode {
		return nil, Faults{Faultf(node.Line, "%s must be a mapping of fields", field)}
	}
	if len(node.Content)/2 > limit {
		return nil, Faults{Faultf(node.Line, "%s must have at most %d entries", field, limit)}
	}
	var pairs []Pair
	var faults Faults
	first := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := Resolve(node.Content[i])
		if key.Kind != yaml.ScalarNode {
			faults = append(faults, Faultf(node.Content[i].Line, "a name in %s must be text", field))
			continue
		}
		if line, twice := first[key.Value]; twice {
			faults = append(faults, Faultf(key.Line, "%q is there twice in %s, first on line %d", key.Value, field, line))
		}
		first[key.Value] = key.Line
		pairs = append(pairs, Pair{key.Value, key.Line, Resolve(node.Content[i+1])})
	}
	return pairs, faults
}
