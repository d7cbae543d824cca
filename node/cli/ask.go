package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"mailnode/node/admin"
	"mailnode/storage"
)

// lineMax bounds a line that is read from standard input, in bytes.
const lineMax = 4096

// agree asks a person; without one, and without --yes, nothing is done.
func (a *app) agree(question, again string) error {
	if a.yes {
		return nil
	}
	if !a.canAsk() {
		return unasked(again)
	}
	answer, err := a.answer(question + " [y/N]")
	if err != nil {
		return err
	}
	if answer = strings.ToLower(answer); answer == "y" || answer == "yes" {
		return nil
	}
	return errSaidNo
}

// errSaidNo is a person's answer to agree.
var errSaidNo = &admin.Error{Text: "nothing was done", Exit: admin.ExitRefused}

// canAsk reports whether a person can be asked, or need not be.
func (a *app) canAsk() bool { return a.yes || isTerminal(a.in) }

// unasked says that a person could not be asked, and how to do without.
func unasked(again string) error {
	return &admin.Error{Text: "nothing was done: there is no terminal to ask on", Exit: admin.ExitRefused, Next: again + " --yes"}
}

// retype asks a person to type what is at stake, where a yes comes too easily.
func (a *app) retype(question, word, again string) error {
	if a.yes {
		return nil
	}
	answer, err := a.answer(question)
	if err != nil {
		return err
	}
	if !strings.EqualFold(answer, word) {
		return &admin.Error{Text: "that is not it, nothing was done", Exit: admin.ExitRefused, Next: again}
	}
	return nil
}

func (a *app) answer(question string) (string, error) {
	fmt.Fprintf(a.err, "%s ", question)
	line, err := a.readLine()
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimSpace(line), nil
}

// password asks on a terminal, twice and without echo, or takes the first line
// of standard input.
func (a *app) password(fromStdin bool) (string, error) {
	if !fromStdin && isTerminal(a.in) {
		first, err := a.secret("password: ")
		if err != nil {
			return "", err
		}
		second, err := a.secret("again: ")
		if err != nil {
			return "", err
		}
		if first != second {
			return "", usage("the two passwords differ, nothing was done")
		}
		return first, checkPassword(first)
	}
	line, err := a.readLine()
	if err != nil && (!errors.Is(err, io.EOF) || line == "") {
		return "", usage("no password: write it on the first line of standard input, or call this on a terminal")
	}
	password := strings.TrimRight(line, "\r\n")
	return password, checkPassword(password)
}

// checkPassword is here too because JSON would replace what is not UTF-8 on its way
// to the node.
func checkPassword(p string) error {
	if p == "" {
		return usage("the password is empty, nothing was done")
	}
	if err := storage.CheckPassword(p); err != nil {
		return usage("%s, nothing was done", err)
	}
	return nil
}

func (a *app) secret(prompt string) (string, error) {
	f, ok := a.in.(*os.File)
	if !ok {
		return "", usage("no terminal to ask for a password on")
	}
	fmt.Fprint(a.err, prompt)
	b, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(a.err)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	return string(b), nil
}

func (a *app) readLine() (string, error) {
	return bufio.NewReader(io.LimitReader(a.in, lineMax)).ReadString('\n')
}
