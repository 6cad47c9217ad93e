"""fledge completion: print the script that makes a shell complete fledge's words with the Tab key."""

import argparse

from fledge.cli.arguments import Parser
from fledge.cli.output import report

EXAMPLES = (
    'eval "$(fledge completion bash)"            permanently: add this line to ~/.bashrc',
    'eval "$(fledge completion zsh)"             permanently: add this line to ~/.zshrc, below compinit',
    "fledge completion fish > ~/.config/fish/completions/fledge.fish",
)
# Each asks the fledge that is being typed for the words that fit, one a line. Each word is sent with a colon before it,
# so that none is taken for an option of this command.
SCRIPTS = {
    "bash": """\
_fledge() {
    local IFS=$'\\n' words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    COMPREPLY=($("${COMP_WORDS[0]}" completion words "${words[@]/#/:}" 2>/dev/null))
    (( ${#COMPREPLY[@]} )) || return
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == */ ]] && compopt -o nospace
    COMPREPLY=($(printf '%q\\n' "${COMPREPLY[@]}"))
}
complete -F _fledge fledge""",
    "zsh": """\
#compdef fledge
_fledge() {
    local -a given found folders
    given=("${(@)words[2,CURRENT]}")
    found=("${(@f)$("${words[1]}" completion words "${(@)given/#/:}" 2>/dev/null)}")
    folders=("${(@M)found:#*/}")
    found=("${(@)found:#*/}")
    [[ -n ${found[*]} ]] && compadd -- "${(@)found}"
    [[ -n ${folders[*]} ]] && compadd -S '' -- "${(@)folders}"
}
compdef _fledge fledge""",
    "fish": """\
function __fledge_words
    fledge completion words (string replace -r '^' ':' -- (commandline -opc)[2..] (commandline -ct)) 2>/dev/null
end
complete -c fledge -f -a '(__fledge_words)'""",
}


def add_arguments(parser: Parser) -> None:
    parser.add_argument("shell", choices=[*SCRIPTS, "words"], metavar="bash|zsh|fish", help="your shell")
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    if args.shell != "words":
        report({"script": SCRIPTS[args.shell]}, as_json=args.json, text=SCRIPTS[args.shell])
        return
    from fledge.cli.completion import candidates

    for word in candidates([word[1:] for word in args.words]):
        print(word)
