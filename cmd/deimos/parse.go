package main

import (
	"errors"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"github.com/marsevilspirit/deimos/daemon"
)

const envPrefix = "DEIMOS_"

// settings is what flags, environment and configuration file amount to.
type settings struct {
	// config has the zero value in each field that nobody set.
	config     daemon.Config
	logLevel   slog.Level
	logFormat  string
	configFile string
	// help and version are only taken from the command line.
	help, version bool
	// unknownEnv lists the DEIMOS_ variables that mean nothing, sorted.
	unknownEnv []string
}

// given is one setting as somebody wrote it.
type given struct {
	option *option
	name   string // the name or the alias, as written
	source string // the flag, variable or key, for messages
	text   string
}

// parse reads the command line, the environment ("NAME=value") and the
// configuration file that one of them names, and checks the outcome. Every
// error is a [*daemon.UsageError]. With --help or --version nothing but the
// command line is read.
func parse(args, env []string) (*settings, error) {
	s := &settings{}
	options := s.options()
	byName := index(options)

	flags, err := readFlags(s, options, args)
	if err != nil {
		return nil, err
	}
	if s.help || s.version {
		return s, nil
	}
	vars, err := readEnv(s, byName, env)
	if err != nil {
		return nil, err
	}
	var file []given
	paths := slices.DeleteFunc(slices.Concat(vars, flags), func(g given) bool { return g.name != optionConfigFile })
	if err := applyLevel(paths); err != nil {
		return nil, err
	}
	if s.configFile != "" { // the last one counts, and flags come after variables
		if file, err = readConfigFile(s.configFile, byName); err != nil {
			return nil, err
		}
	}

	for _, level := range [][]given{file, vars, flags} { // the stronger later
		if err := applyLevel(level); err != nil {
			return nil, err
		}
	}

	// The daemon validates again when it opens, and logs its warnings then.
	config := s.config
	if err := config.Validate(); err != nil {
		return nil, err
	}
	return s, nil
}

// index returns the options by name and alias.
func index(options []*option) map[string]*option {
	byName := make(map[string]*option, 2*len(options))
	for _, o := range options {
		for _, name := range o.names() {
			byName[name] = o
		}
	}
	return byName
}

// applyLevel sets the options of one level: all flags, all variables, or the
// whole file. Of one name the last value counts; a name and its alias must
// agree.
func applyLevel(level []given) error {
	last := map[string]given{}
	canonical := map[string]string{}
	for _, g := range level {
		if err := g.option.value.Set(g.text); err != nil {
			return invalidValue(g.source, g.text, err)
		}
		last[g.name], canonical[g.name] = g, g.option.value.String()
	}
	for _, g := range level {
		name, alias := g.option.name, g.option.alias
		a, named := canonical[name]
		b, aliased := canonical[alias]
		if named && aliased && a != b {
			return daemon.Usagef("%s and %s are the same option and have different values, %q and %q",
				last[name].source, last[alias].source, last[name].text, last[alias].text)
		}
	}
	return nil
}

// errMalformed is the reason for refusing a value that is plain from the value.
var errMalformed = errors.New("malformed")

func invalidValue(source, text string, reason error) error {
	if errors.Is(reason, errMalformed) {
		return daemon.Usagef("%s: invalid value %q", source, text)
	}
	return daemon.Usagef("%s: invalid value %q: %v", source, text, reason)
}

// readFlags reads the command line. Values are recorded, not set, because the
// weaker levels have to be set before.
func readFlags(s *settings, options []*option, args []string) ([]given, error) {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		return nil, noCommand("deimos", args[0], commandNames(newRoot(nil)), "deimos help")
	}
	var level []given
	fs := pflag.NewFlagSet("deimos", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.BoolVar(&s.help, "help", false, "")
	fs.BoolVar(&s.version, "version", false, "")
	for _, o := range options {
		for _, name := range o.names() {
			flag := fs.VarPF(&recorder{option: o, name: name, level: &level}, name, "", "")
			if o.value.Type() == kindBool {
				flag.NoOptDefVal = "true"
			}
		}
	}
	args = normalize(args)
	if err := fs.Parse(args); err != nil {
		return nil, flagError(err, options)
	}
	if fs.NArg() > 0 {
		return nil, surplus(fs.Arg(0), args, options)
	}
	return level, nil
}

// surplus refuses an argument that belongs to no flag. The value of a switch is
// the one that is written most often.
func surplus(arg string, args []string, options []*option) error {
	if i := slices.Index(args, arg); i > 0 {
		for _, o := range options {
			if _, err := parseBool(arg); o.value.Type() == kindBool && args[i-1] == "--"+o.name && err == nil {
				return daemon.Usagef("unexpected argument %q: write --%s=%s", arg, o.name, arg)
			}
		}
	}
	return daemon.Usagef("unexpected argument %q, see deimos --help", arg)
}

// normalize gives arguments of one dash and a letter their second dash, up to
// a lone "--".
func normalize(args []string) []string {
	out := slices.Clone(args)
	for i, arg := range out {
		switch {
		case arg == "--":
			return out
		case arg == "-h":
			out[i] = "--help"
		case strings.HasPrefix(arg, "-"):
			if r, _ := utf8.DecodeRuneInString(arg[1:]); unicode.IsLetter(r) {
				out[i] = "-" + arg
			}
		}
	}
	return out
}

// flagError says in the words of this program what pflag did not like.
func flagError(err error, options []*option) error {
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok {
		if short := e.GetSpecifiedShortnames(); short != "" {
			return unknownFlag("-" + short)
		}
		name := e.GetSpecifiedName()
		if isGone(name) {
			return gone("--" + name)
		}
		if meant := suggest(name, options); meant != "" {
			return daemon.Usagef("unknown flag %s, did you mean --%s?", printable("--"+name), meant)
		}
		return unknownFlag("--" + name)
	}
	if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return daemon.Usagef("--%s needs a value", e.GetSpecifiedName())
	}
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return invalidValue("--"+e.GetFlag().Name, e.GetValue(), errNotBool) // help or version
	}
	if e, ok := errors.AsType[*pflag.InvalidSyntaxError](err); ok {
		return unknownFlag(e.GetSpecifiedFlag())
	}
	return daemon.Usagef("%s", printable(err.Error()))
}

func unknownFlag(flag string) error {
	return daemon.Usagef("unknown flag %s, see deimos --help", printable(flag))
}

// recorder is the pflag.Value of one name of an option.
type recorder struct {
	option *option
	name   string
	level  *[]given
}

func (r *recorder) Set(text string) error {
	*r.level = append(*r.level, given{r.option, r.name, "--" + r.name, text})
	return nil
}

func (r *recorder) String() string { return "" }

func (r *recorder) Type() string { return r.option.value.Type() }

// readEnv picks the variables of the program out of the environment. An empty
// one counts as unset.
func readEnv(s *settings, byName map[string]*option, env []string) ([]given, error) {
	var level []given
	for _, pair := range env {
		variable, text, _ := strings.Cut(pair, "=")
		rest, ok := strings.CutPrefix(variable, envPrefix)
		if !ok || text == "" {
			continue
		}
		name := strings.ReplaceAll(strings.ToLower(rest), "_", "-")
		switch o := byName[name]; {
		case envName(name) != variable: // lower case, or a dash
			s.unknownEnv = append(s.unknownEnv, variable)
		case o != nil:
			level = append(level, given{o, name, variable, text})
		case isGone(name):
			return nil, gone(variable)
		case slices.Contains(clientVariables, variable): // for the commands
		default:
			s.unknownEnv = append(s.unknownEnv, variable)
		}
	}
	slices.Sort(s.unknownEnv)
	s.unknownEnv = slices.Compact(s.unknownEnv)
	return level, nil
}

// envName returns the variable of an option.
func envName(name string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// isGone tells the names that other programs have and that are not guessed at:
// they meant something slightly different.
func isGone(name string) bool {
	return name == "heartbeat-timeout" || name == "tick-interval"
}

func gone(source string) error {
	return daemon.Usagef("%s does not exist: use heartbeat-interval", source)
}

// printable quotes text that would break a message of one line.
func printable(text string) string {
	if quoted := strconv.Quote(text); quoted != `"`+text+`"` {
		return quoted
	}
	return text
}
