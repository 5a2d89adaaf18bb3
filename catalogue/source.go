package catalogue

import (
	"cmp"
	"slices"

	"go.yaml.in/yaml/v4"

	"signaldevice/catalogue/configfile"
)

// source is a file as far as it could be read.
type source struct {
	catalogue *Catalogue
	entries   []sourceEntry // of the commands, in order
	models    *yaml.Node
	faults    configfile.Faults
}

// sourceEntry is one command with what it was read from.
type sourceEntry struct {
	entry
	cmd    *command
	node   *yaml.Node
	args   argsSchema
	texts  []textSource
	faults configfile.Faults
}

// textSource is one text form of a command in the file.
type textSource struct {
	*textEntry
	name string
	at   []string // the way to it in the command's entry
}

// readSource reads a file as far as it can be read; the faults are sorted by line.
func readSource(data []byte) source {
	var f file
	if err := configfile.Decode(data, MaxFileBytes, &f); err != nil {
		return source{faults: configfile.FaultsOf(err)}
	}
	if n := len(f.Commands); n == 0 || n > MaxCommands {
		return source{faults: configfile.Faults{configfile.Faultf(0, "the file must have 1 to %d commands", MaxCommands)}}
	}
	s := source{models: &f.Models}
	s.readCommands(f.Commands)
	if len(s.faults) == 0 { // else models would be told of commands and forms that are only misspelt
		s.catalogue.models, s.faults = readModels(&f.Models, s.catalogue)
	}
	slices.SortFunc(s.faults, func(a, b configfile.Fault) int {
		return cmp.Or(a.Line-b.Line, cmp.Compare(a.Message, b.Message))
	})
	return s
}

// readCommands reads every command; of two with one name the second is a fault.
func (s *source) readCommands(nodes []yaml.Node) {
	s.catalogue = &Catalogue{byName: make(map[string]*command, len(nodes))}
	lines := map[string]int{}
	for i := range nodes {
		e := readCommand(configfile.Resolve(&nodes[i]))
		s.entries = append(s.entries, e)
		s.faults = append(s.faults, e.faults...)
		line := configfile.Line(e.node, "name")
		if first, twice := lines[e.Name]; twice && e.Name != "" {
			s.faults = append(s.faults, configfile.Faultf(line, "command %q is there twice, first on line %d", e.Name, first))
		}
		lines[e.Name] = line
		s.catalogue.commands = append(s.catalogue.commands, e.cmd.Command)
		s.catalogue.byName[e.Name] = e.cmd
	}
}

// readCommand reads one command as far as it can be read, with all that is wrong with it.
func readCommand(node *yaml.Node) sourceEntry {
	e := sourceEntry{node: node, cmd: &command{}}
	if node.Kind != yaml.MappingNode {
		e.faults = configfile.Faults{configfile.Faultf(node.Line, "a command must be a mapping of fields")}
		return e
	}
	e.faults = configfile.DecodeNode(node, &e.entry)
	e.cmd.Name = e.Name
	if len(e.faults) > 0 {
		return e
	}
	e.fillDefaults()
	e.faults = e.check(node)
	schema, faults := readSchema(&e.Args, node.Line)
	e.args = schema
	e.faults = append(e.faults, faults...)
	e.cmd.Command, e.cmd.schema = e.command(schema), schema.compiled
	if len(faults) == 0 {
		e.readTexts()
	}
	if len(e.faults) == 0 {
		e.runExamples()
	}
	return e
}

// readTexts reads the field text and those of the field forms.
func (e *sourceEntry) readTexts() {
	if e.Text != nil {
		e.texts = append(e.texts, textSource{e.Text, formText, []string{"text"}})
	}
	pairs, faults := configfile.Pairs(&e.Forms, "forms", maxForms)
	e.faults = append(e.faults, faults...)
	for _, p := range pairs {
		if p.Name == formJSON || p.Name == formText || !formPattern.MatchString(p.Name) {
			e.faults = append(e.faults, configfile.Faultf(p.Line, "the name of a form must match %s, and be neither json nor text", formPattern))
			continue
		}
		text := textSource{new(textEntry), p.Name, []string{"forms", p.Name}}
		if faults := configfile.DecodeNode(p.Value, text.textEntry); len(faults) > 0 {
			e.faults = append(e.faults, faults...)
			continue
		}
		e.texts = append(e.texts, text)
	}
	for _, t := range e.texts {
		form, faults := newTextForm(t, e.args.doc, e.node)
		e.cmd.texts = append(e.cmd.texts, form)
		e.faults = append(e.faults, faults...)
	}
}

// runExamples checks a command that is read whole: by its examples, and its forms against each other.
func (e *sourceEntry) runExamples() {
	x := examples{cmd: e.cmd, node: e.node}
	x.json(e.Examples)
	for i, t := range e.texts {
		x.text(e.cmd.texts[i], t.Examples)
	}
	e.faults = append(e.faults, x.faults...)
	for i, later := range e.cmd.texts {
		for _, earlier := range e.cmd.texts[:i] {
			if line, found := disagreement(earlier, later); found {
				at := join(later.at, "reply")
				e.faults = append(e.faults, configfile.Faultf(configfile.Line(e.node, at...),
					"%s and %s both take %q and read it differently", fieldName(join(earlier.at, "reply")), fieldName(at), line))
			}
		}
	}
}
