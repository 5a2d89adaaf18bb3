package main

import (
	"cmp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// candidates are what may stand in place of a word: themselves, or files, which the shell knows best.
type candidates struct {
	kind  string // "words", "files" or "folders"
	words []candidate
}

type candidate struct{ word, about string }

// completer finds out what may stand next on a command line, from the model of all command lines.
type completer struct {
	model *kong.Node
	// known gives values that the model does not hold: of a flag by its name, such as "--server", of an argument by its
	// command and name, such as "send command". set are the flags on the line so far. nil: there are none.
	known func(of string, set map[string]string) []string
}

// complete returns what may stand in place of the last word; the words before it are those behind the program's name.
func (c completer) complete(words []string) candidates {
	if len(words) == 0 {
		return candidates{}
	}
	l := line{node: c.model, set: map[string]string{}}
	for _, word := range words[:len(words)-1] {
		l.take(word)
	}
	last := words[len(words)-1]
	switch name, value, inside := strings.Cut(last, "="); {
	case l.open != nil:
		return c.values(l.open, "--"+l.open.Name, "", last, l.set)
	case inside && strings.HasPrefix(name, "--") && !l.plain:
		if flag := l.flag(name); flag != nil {
			return c.values(flag, name, name+"=", value, l.set)
		}
		return candidates{}
	case strings.HasPrefix(last, "-") && !l.plain:
		return l.flags(last)
	}
	var found candidates
	if l.filled == 0 {
		found.words = l.commands(last)
	}
	if argument := l.argument(); argument != nil {
		values := c.values(&kong.Flag{Value: argument, PlaceHolder: argument.Name}, l.leaf().Name+" "+argument.Name, "", last, l.set)
		found.kind, found.words = values.kind, append(found.words, values.words...)
	}
	return found
}

// line is how far a command line has been read.
type line struct {
	node   *kong.Node
	filled int               // arguments of the node that are there
	open   *kong.Flag        // waits for its value
	plain  bool              // behind "--": no flags any more
	set    map[string]string // flags that are there, by name with --, and their values
}

func (l *line) take(word string) {
	switch {
	case l.open != nil:
		l.set["--"+l.open.Name] = word
		l.open = nil
	case l.plain || !strings.HasPrefix(word, "-") || word == "-":
		l.takePlain(word)
	case word == "--":
		l.plain = true
	default:
		name, value, _ := strings.Cut(word, "=")
		flag := l.flag(name)
		l.set[name] = value
		if flag != nil && name == word && !flag.IsBool() && !flag.IsCounter() {
			l.open = flag
		}
	}
}

func (l *line) takePlain(word string) {
	if l.filled == 0 {
		for _, child := range l.node.Children {
			if child.Name == word || slices.Contains(child.Aliases, word) {
				l.node = child
				return
			}
		}
	}
	l.filled++
}

// leaf is the command that runs if no further one is named.
func (l *line) leaf() *kong.Node {
	if l.node.DefaultCmd != nil {
		return l.node.DefaultCmd
	}
	return l.node
}

// argument is the one that the next word would be; the last one where that takes several.
func (l *line) argument() *kong.Value {
	arguments := l.leaf().Positional
	switch {
	case l.filled < len(arguments):
		return arguments[l.filled]
	case len(arguments) > 0 && arguments[len(arguments)-1].IsSlice():
		return arguments[len(arguments)-1]
	default:
		return nil
	}
}

func (l *line) flag(name string) *kong.Flag {
	for _, group := range l.leaf().AllFlags(true) {
		for _, flag := range group {
			if name == "--"+flag.Name || flag.Short != 0 && name == "-"+string(flag.Short) {
				return flag
			}
		}
	}
	return nil
}

// flags are those that begin so, without those that are there already and can be there only once.
func (l *line) flags(prefix string) (found candidates) {
	for _, group := range l.leaf().AllFlags(true) {
		for _, flag := range group {
			name := "--" + flag.Name
			if _, there := l.set[name]; strings.HasPrefix(name, prefix) && (!there || flag.IsCumulative()) {
				found.words = append(found.words, candidate{name, flag.Help})
			}
		}
	}
	return found
}

func (l *line) commands(prefix string) (found []candidate) {
	for _, child := range l.node.Children {
		if !child.Hidden && strings.HasPrefix(child.Name, prefix) {
			found = append(found, candidate{child.Name, child.Help})
		}
	}
	return found
}

// values are what a flag or an argument may be. before stands in front of each in the same word.
func (c completer) values(v *kong.Flag, of, before, prefix string, set map[string]string) candidates {
	words := v.EnumSlice()
	if v.Enum == "" {
		words = c.known(of, set)
	}
	if v.IsSlice() && v.Enum != "" { // several may stand in one word
		if i := strings.LastIndex(prefix, ","); i >= 0 {
			before, prefix = before+prefix[:i+1], prefix[i+1:]
		}
	}
	var found candidates
	for _, word := range words {
		if word != "" && strings.HasPrefix(word, prefix) {
			found.words = append(found.words, candidate{before + word, ""})
		}
	}
	if len(words) > 0 {
		return found
	}
	tag := ""
	if v.Tag != nil {
		tag = v.Tag.Type
	}
	switch cmp.Or(map[string]string{"existingdir": "DIR", "existingfile": "FILE", "path": "PATH"}[tag], strings.ToUpper(v.PlaceHolder)) {
	case "FILE", "PATH":
		found.kind = "files"
	case "DIR":
		found.kind = "folders"
	}
	return found
}
