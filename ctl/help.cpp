// Texts made from the table: help and completion scripts.
#include <algorithm>

#include "ctl/commands/commands.h"
#include "ctl/out.h"
#include "ctl/table.h"

namespace egress::ctl {

namespace {

std::string option_lines(std::span<const Option> options) {
    std::string text;
    for (const auto& option : options) {
        const auto letter = option.letter != '\0' ? fmt::format("-{}", option.letter) : "  ";
        const auto* const gap = option.letter != '\0' && !option.name.empty() ? ", " : "  ";
        const auto name = option.name.empty() ? "" : fmt::format("--{}", option.name);
        auto words = letter + (option.name.empty() ? "" : gap + name);
        words += option.argument.empty() ? "" : fmt::format(" {}", option.argument);
        text += fmt::format("  {:<22} {}\n", words, option.help);
    }
    return text;
}

template <typename Each>
void each_visible(const Each& each) {
    for (const auto& command : commands()) {
        if (!command.hidden) {
            each(command);
        }
    }
}

/// Words that complete the option itself: "-D --for".
std::string option_words(const Command& command) {
    std::string words;
    const auto add = [&](const Option& option) {
        words += option.letter != '\0' ? fmt::format("-{} ", option.letter) : "";
        words += option.name.empty() ? "" : fmt::format("--{} ", option.name);
    };
    std::ranges::for_each(command.options, add);
    std::ranges::for_each(global_options(), add);
    words.pop_back();
    return words;
}

std::string command_names() {
    std::string names;
    each_visible([&](const Command& command) { names += fmt::format("{} ", command.name); });
    names.pop_back();
    return names;
}

/// The bash command that completes an argument of this kind; "": none.
std::string bash_offer(Kind kind) {
    switch (kind) {
    case Kind::file:
        return "compgen -f -- \"$cur\"";
    case Kind::directory:
        return "compgen -d -- \"$cur\"";
    case Kind::command:
        return fmt::format("compgen -W \"{}\" -- \"$cur\"", command_names());
    case Kind::shell:
        return "compgen -W \"bash zsh\" -- \"$cur\"";
    case Kind::word:
        break;
    }
    return {};
}

/// The same for an option's argument: a word may have known values.
std::string bash_offer(const Option& option) {
    return option.values.empty() ? bash_offer(option.kind)
                                 : fmt::format("compgen -W \"{}\" -- \"$cur\"", option.values);
}

std::string bash_argument_cases(std::span<const Option> options) {
    std::string text;
    for (const auto& option : options) {
        if (option.argument.empty()) {
            continue;
        }
        const auto offer = bash_offer(option);
        std::string patterns = option.letter != '\0' ? fmt::format("-{}", option.letter) : "";
        patterns += option.letter != '\0' && !option.name.empty() ? "|" : "";
        patterns += option.name.empty() ? "" : fmt::format("--{}", option.name);
        text +=
            fmt::format("        {}) {} return ;;\n", patterns,
                        offer.empty() ? "" : fmt::format("mapfile -t COMPREPLY < <({});", offer));
    }
    return text;
}

/// The options that take an argument, as a case pattern: the word after them is no command.
std::string bash_argument_pattern() {
    std::string pattern;
    for (const auto& option : global_options()) {
        if (!option.argument.empty()) {
            pattern += option.letter != '\0' ? fmt::format("-{}|", option.letter) : "";
            pattern += fmt::format("--{}|", option.name);
        }
    }
    pattern.pop_back();
    return pattern;
}

std::string bash_command_cases() {
    std::string text;
    each_visible([&](const Command& command) {
        text += fmt::format("    {})\n", command.name);
        const auto cases = bash_argument_cases(command.options);
        if (!cases.empty()) {
            text += fmt::format("        case $prev in\n{}        esac\n", cases);
        }
        text += fmt::format("        words='{}'\n", option_words(command));
        const auto offer = bash_offer(command.kind);
        if (!offer.empty()) {
            text += fmt::format("        [[ $cur == -* ]] || {{ mapfile -t COMPREPLY < <({}); "
                                "return; }}\n",
                                offer);
        }
        text += "        ;;\n";
    });
    return text;
}

/// Text inside a zsh _arguments specification, single-quoted.
std::string zsh_quoted(std::string_view text) {
    std::string result;
    for (const char c : text) {
        if (c == '[' || c == ']' || c == ':' || c == '\\') {
            result += '\\';
        }
        result += c == '\'' ? "'\\''" : std::string(1, c);
    }
    return result;
}

std::string_view zsh_action(Kind kind) {
    switch (kind) {
    case Kind::file:
        return "_files";
    case Kind::directory:
        return "_files -/";
    case Kind::command:
        return "_egressctl_commands";
    case Kind::shell:
        return "(bash zsh)";
    case Kind::word:
        break;
    }
    return " ";
}

std::string zsh_option(const Option& option) {
    const auto help = zsh_quoted(option.help);
    const auto argument =
        option.argument.empty()
            ? std::string{}
            : fmt::format(":{}:{}", option.argument,
                          option.values.empty() ? std::string(zsh_action(option.kind))
                                                : fmt::format("({})", option.values));
    std::string text;
    if (option.letter != '\0') {
        text += fmt::format(" \\\n            '-{}[{}]{}'", option.letter, help, argument);
    }
    if (!option.name.empty()) {
        text += fmt::format(" \\\n            '{}--{}{}[{}]{}'", option.many ? "*" : "",
                            option.name, option.argument.empty() ? "" : "=", help, argument);
    }
    return text;
}

std::string zsh_options(std::span<const Option> options) {
    std::string text;
    for (const auto& option : options) {
        text += zsh_option(option);
    }
    return text;
}

std::string zsh_command_cases() {
    std::string text;
    each_visible([&](const Command& command) {
        text += fmt::format("        {})\n        _arguments -s{}{}", command.name,
                            zsh_options(command.options), zsh_options(global_options()));
        if (!command.operands.empty()) {
            text += fmt::format(" \\\n            '1:{}:{}'", zsh_quoted(command.operands),
                                zsh_action(command.kind));
        }
        text += "\n        ;;\n";
    });
    return text;
}

} // namespace

std::string help_text() {
    std::string text = "usage: egressctl [options] command [arguments]\n\ncommands:\n";
    each_visible([&](const Command& command) {
        text += fmt::format("  {:<10} {}\n", command.name, command.help);
    });
    text +=
        fmt::format("\noptions, before or after any command:\n{}", option_lines(global_options()));
    text += "\nexit status: 0 yes, 1 no, 2 wrong usage, 3 cannot reach or read\n"
            "'egressctl help COMMAND' shows its options; the manual is egressctl(8)\n";
    return text;
}

std::string help_text(const Command& command) {
    return fmt::format("usage: egressctl {}\n{}\n\noptions:\n{}{}", command.synopsis(),
                       command.help, option_lines(command.options), option_lines(global_options()));
}

std::string bash_completion() {
    return fmt::format(R"(# bash completion for egressctl, made by "egressctl completion bash"
_egressctl() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} command= words= i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
        {}) ((i++)) ;;
        -*) ;;
        *) command=${{COMP_WORDS[i]}}; break ;;
        esac
    done
    case $prev in
{}    esac
    case $command in
    '') words='{}'; [[ $cur == -* ]] && words='{}' ;;
{}    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}}
complete -F _egressctl egressctl
)",
                       bash_argument_pattern(), bash_argument_cases(global_options()),
                       command_names(), option_words(Command{}), bash_command_cases());
}

std::string zsh_completion() {
    std::string names;
    each_visible([&](const Command& command) {
        names += fmt::format("        '{}:{}'\n", command.name, zsh_quoted(command.help));
    });
    return fmt::format(R"(#compdef egressctl
# zsh completion for egressctl, made by "egressctl completion zsh"
_egressctl_commands() {{
    local -a names
    names=(
{}    )
    _describe command names
}}
_egressctl() {{
    local context state state_descr line
    typeset -A opt_args
    _arguments -C{} \
        '1:command:_egressctl_commands' '*::argument:->arguments'
    [[ $state == arguments ]] || return
    case $line[1] in
{}    esac
}}
_egressctl "$@"
)",
                       names, zsh_options(global_options()), zsh_command_cases());
}

Exit run_help(const Context& context, const Arguments& arguments) {
    if (arguments.operands.empty()) {
        print(context.out, "{}", help_text());
        return Exit::ok;
    }
    const auto* const command = find_command(arguments.operands[0]);
    if (command == nullptr) {
        return complain(context, {Exit::usage, fmt::format("unknown command '{}'",
                                                           printable(arguments.operands[0]))});
    }
    print(context.out, "{}", help_text(*command));
    return Exit::ok;
}

Exit run_completion(const Context& context, const Arguments& arguments) {
    const auto& shell = arguments.operands[0];
    if (shell != "bash" && shell != "zsh") {
        return complain(context, {Exit::usage, fmt::format("'{}' is not a shell with completion; "
                                                           "write bash or zsh",
                                                           printable(shell))});
    }
    print(context.out, "{}", shell == "bash" ? bash_completion() : zsh_completion());
    return Exit::ok;
}

} // namespace egress::ctl
