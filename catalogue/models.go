package catalogue

import (
	"regexp"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v4"

	"signaldevice/catalogue/configfile"
	"signaldevice/device"
)

// Limits of models.
const (
	maxModels     = 200
	maxLabelValue = 63 // characters, as the broker has it
)

// Names of the forms that need no declaration.
const (
	formJSON = "json"
	formText = "text"
)

// labelKey is what the broker takes as the key of a device's label.
var labelKey = regexp.MustCompile(`^[a-z][-_0-9a-z]{0,62}$`)

// models says which commands a device has, and in which form it is spoken to.
type models struct {
	label     string // of a device; its value names the device's model
	named     map[string]model
	otherwise model           // of a device without the label, or with a value that is not listed
	differ    map[string]bool // commands that not all models have in the same form
}

// model is what its devices have: the form of each command, nil for JSON. A command that is not there they have not.
type model map[string]*textForm

// modelsEntry is the section models of the file.
type modelsEntry struct {
	Label     string    `yaml:"label"`
	Values    yaml.Node `yaml:"values"`
	Otherwise yaml.Node `yaml:"otherwise"`
}

// modelEntry is one model in the file.
type modelEntry struct {
	Description string   `yaml:"description"`
	Speaks      []string `yaml:"speaks"`
	Commands    []string `yaml:"commands"` // nil: all
	Without     []string `yaml:"without"`
}

// of returns the model of a device with these labels.
func (m *models) of(labels device.Labels) model {
	if named, ok := m.named[labels[m.label]]; ok {
		return named
	}
	return m.otherwise
}

// form returns the form of a command for the device whose labels are asked for only where they matter. UnknownCommand
// where the device does not have the command.
func (m *models) form(command string, labels func() (device.Labels, error)) (*textForm, error) {
	if !m.differ[command] {
		form, has := m.otherwise[command]
		if !has {
			return nil, device.Errorf(device.UnknownCommand, "no model of device has this command")
		}
		return form, nil
	}
	have, err := labels()
	if err != nil {
		return nil, err
	}
	form, has := m.of(have)[command]
	if has {
		return form, nil
	}
	if value, labelled := have[m.label]; labelled {
		return nil, device.Errorf(device.UnknownCommand, "a device with the label %s=%s does not have this command", m.label, value)
	}
	return nil, device.Errorf(device.UnknownCommand, "a device without the label %s does not have this command", m.label)
}

// readModels reads the section for commands that are read already. A zero node means that all devices are alike: each
// command has its form text where it has one, and else JSON.
func readModels(node *yaml.Node, c *Catalogue) (*models, configfile.Faults) {
	r := modelReader{catalogue: c}
	node = configfile.Resolve(node)
	if node.IsZero() {
		return &models{otherwise: r.choose(modelEntry{Speaks: []string{formText, formJSON}})}, nil
	}
	var e modelsEntry
	if faults := configfile.DecodeNode(node, &e); len(faults) > 0 {
		return nil, faults
	}
	if !labelKey.MatchString(e.Label) {
		r.fault(configfile.Line(node, "label"), "models.label can be on no device: it must match "+labelKey.String())
	}
	m := &models{label: e.Label, named: map[string]model{}}
	pairs, faults := configfile.Pairs(&e.Values, "models.values", maxModels)
	r.faults = append(r.faults, faults...)
	for _, p := range pairs {
		if p.Name == "" || lineFault(p.Name, maxLabelValue) != "" {
			r.fault(p.Line, "a value in models.values can be on no device: it must have 1 to "+strconv.Itoa(maxLabelValue)+" printable characters")
		}
		m.named[p.Name] = r.read(p.Value, "models.values."+shownName(p.Name))
	}
	if e.Otherwise.IsZero() {
		m.otherwise = r.choose(modelEntry{Speaks: []string{formJSON}})
	} else {
		m.otherwise = r.read(configfile.Resolve(&e.Otherwise), "models.otherwise")
	}
	m.differ = m.differences(c)
	return m, r.faults
}

// differences finds the commands for which a device's model matters.
func (m *models) differences(c *Catalogue) map[string]bool {
	differ := map[string]bool{}
	for _, cmd := range c.commands {
		form, has := m.otherwise[cmd.Name]
		for _, named := range m.named {
			if f, also := named[cmd.Name]; f != form || also != has {
				differ[cmd.Name] = true
			}
		}
	}
	return differ
}

// modelReader reads models against the commands of a file.
type modelReader struct {
	catalogue *Catalogue
	faults    configfile.Faults
}

func (r *modelReader) fault(line int, message string) {
	r.faults = append(r.faults, configfile.Faultf(line, "%s", message))
}

// read reads one model, whose place in the file is told as field.
func (r *modelReader) read(node *yaml.Node, field string) model {
	var e modelEntry
	if node.Kind != yaml.MappingNode {
		r.fault(node.Line, field+" must be a mapping of fields")
		return nil
	}
	if faults := configfile.DecodeNode(node, &e); len(faults) > 0 {
		r.faults = append(r.faults, faults...)
		return nil
	}
	if e.Speaks == nil {
		e.Speaks = []string{formJSON}
	}
	if e.Commands != nil && e.Without != nil {
		r.fault(configfile.Line(node, "without"), field+" must have commands or without, not both")
	}
	item := func(list string, i int) int { return configfile.Line(node, list, strconv.Itoa(i)) }
	forms := r.catalogue.forms()
	for i, form := range e.Speaks {
		if !slices.Contains(forms, form) {
			r.fault(item("speaks", i), field+" speaks "+strconv.Quote(form)+", a form that no command has"+configfile.DidYouMean(form, forms))
		}
	}
	chosen := r.choose(e)
	unknown := func(list string, i int, name string) bool {
		if r.catalogue.byName[name] != nil {
			return false
		}
		r.fault(item(list, i), field+" names "+strconv.Quote(name)+", which is no command"+configfile.DidYouMean(name, r.catalogue.names()))
		return true
	}
	for i, name := range e.Commands {
		if _, has := chosen[name]; !unknown("commands", i, name) && !has {
			r.fault(item("commands", i), field+" names "+name+", which has no form that it speaks")
		}
	}
	for i, name := range e.Without {
		unknown("without", i, name)
	}
	return chosen
}

// choose gives each command the first of the model's forms that it has.
func (r *modelReader) choose(e modelEntry) model {
	chosen := model{}
	for _, cmd := range r.catalogue.byName {
		if e.Commands != nil && !slices.Contains(e.Commands, cmd.Name) || slices.Contains(e.Without, cmd.Name) {
			continue
		}
		for _, name := range e.Speaks {
			if form, has := cmd.form(name); has {
				chosen[cmd.Name] = form
				break
			}
		}
	}
	return chosen
}

// forms returns the names of all forms, each once.
func (c *Catalogue) forms() []string {
	names := []string{formJSON}
	for _, cmd := range c.byName {
		for _, form := range cmd.texts {
			names = append(names, form.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (c *Catalogue) names() []string {
	names := make([]string, len(c.commands))
	for i, cmd := range c.commands {
		names[i] = cmd.Name
	}
	return names
}

// form returns the command's form of this name, nil for JSON, which each command has.
func (cmd *command) form(name string) (form *textForm, has bool) {
	if name == formJSON {
		return nil, true
	}
	i := slices.IndexFunc(cmd.texts, func(f *textForm) bool { return f.name == name })
	if i < 0 {
		return nil, false
	}
	return cmd.texts[i], true
}
