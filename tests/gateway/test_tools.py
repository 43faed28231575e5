"""Tools: what is asked for and refused, what templates and grammars get, and calls out of text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import TypeAdapter, ValidationError
from tokenizers import Tokenizer

from services.gateway.tools.deltas import CallArguments, CallStart, Content, Delta, Ids
from services.gateway.tools.markers import MAX_BLANK_CHARS, MAX_CALL_CHARS, MAX_NAMING_CHARS
from services.gateway.tools.readers import MAX_HEAD_CHARS, Reader, reader
from services.gateway.tools.schemas import (
    MAX_DEPTH,
    MAX_TOOLS,
    Mode,
    NamedChoice,
    Tool,
    ToolCall,
    ToolChoice,
    Tools,
    chosen,
)
from services.gateway.tools.templates import (
    HERMES,
    LLAMA3,
    MISTRAL,
    Format,
    Turn,
    described,
    format_of,
    grammar,
    mentions_tools,
    require_plain,
    template_messages,
    without_markers,
)
from services.verifier.grammar import Grammars
from shared.errors import InvalidRequestError
from shared.generation import Grammar

CITY: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TREE: dict[str, object] = {
    "properties": {"$ref": {"type": "string"}, "tree": {"$ref": "#/$defs/Node"}},
    "required": ["tree"],
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {"of": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
            "required": ["of"],
            "additionalProperties": False,
        }
    },
}
NAMES = ("weather", "time", "grow")
FORMATS = (HERMES, MISTRAL, LLAMA3)
TEMPLATES = {
    HERMES: "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}<tool_call>{% endif %}",
    MISTRAL: "{% if tools is not none %}{{ tools }}{% endif %}{{ '[TOOL_CALLS]' }}",
    LLAMA3: "{%- if tools %}{{ 'Environment: ipython' }}{{ '\"parameters\": ' }}{% endif %}",
}
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"


def tool(name: str, parameters: dict[str, object] | None = None) -> Tool:
    body = {"type": "function", "function": {"name": name, "description": f"The {name}."}}
    if parameters is not None:
        body["function"]["parameters"] = parameters  # type: ignore[index]
    return Tool.model_validate(body)


TOOLS = [tool("weather", CITY), tool("time"), tool("grow", TREE)]


def ids() -> Ids:
    numbers = itertools.count()
    return lambda: f"{next(numbers):024x}"


def named(name: str) -> NamedChoice:
    return NamedChoice.model_validate({"type": "function", "function": {"name": name}})


def call(name: str, arguments: str = "{}", key: str = "call_1") -> ToolCall:
    return ToolCall.model_validate(
        {"id": key, "type": "function", "function": {"name": name, "arguments": arguments}}
    )


def auto(form: Format, *, parallel: bool = True) -> Reader:
    return reader(Mode("auto"), form, NAMES, ids(), parallel)


def required() -> Reader:
    return reader(Mode("required"), HERMES, NAMES, ids(), True)


def read(reader: Reader, pieces: Sequence[str]) -> list[Delta]:
    """The deltas, those that continue each other joined."""
    deltas = [delta for piece in pieces for delta in reader.push(piece)]
    return joined([*deltas, *reader.flush()])


def joined(deltas: Sequence[Delta]) -> list[Delta]:
    whole: list[Delta] = []
    for delta in deltas:
        last = whole[-1] if whole else None
        if isinstance(delta, Content) and isinstance(last, Content):
            whole[-1] = Content(last.text + delta.text)
        elif isinstance(delta, CallArguments) and isinstance(last, CallArguments):
            assert delta.index == last.index
            whole[-1] = CallArguments(last.index, last.text + delta.text)
        else:
            whole.append(delta)
    return whole


def shape(deltas: Sequence[Delta]) -> list[str | tuple[str, object]]:
    """Contents as texts, calls as names and arguments. Ids and indices must be in order."""
    shapes: list[str | tuple[str, object]] = []
    num_calls = 0
    for place, delta in enumerate(deltas):
        if isinstance(delta, Content):
            shapes.append(delta.text)
        elif isinstance(delta, CallStart):
            assert (delta.index, delta.id) == (num_calls, f"call_{num_calls:024x}")
            num_calls += 1
            arguments = deltas[place + 1]
            assert isinstance(arguments, CallArguments)
            assert arguments.index == delta.index
            shapes.append((delta.name, json.loads(arguments.text)))
    return shapes


# What is asked for, and refused.


def test_a_choice_says_whether_calls_come() -> None:
    assert chosen(TOOLS, None) == Mode("auto")
    assert chosen(TOOLS, "required") == Mode("required")
    assert chosen(TOOLS, "none") == Mode("none")
    assert chosen(TOOLS, named("time")) == Mode("named", "time")
    assert chosen(None, None) == chosen([], "auto") == chosen([], "none") == Mode("none")


@pytest.mark.parametrize(
    ("tools", "choice", "message", "param"),
    [
        ([], "required", "there are no tools", "tool_choice"),
        (None, named("time"), "there are no tools", "tool_choice"),
        (TOOLS, named("date"), "'date' is none of the tools", "tool_choice"),
        ([*TOOLS, tool("time")], "none", r"tools\[3\]: there is a tool 'time' already", "tools"),
    ],
)
def test_a_choice_of_what_is_not_there_is_refused(
    tools: list[Tool] | None, choice: ToolChoice, message: str, param: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        chosen(tools, choice)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "function",
    [
        {"name": "a b"},
        {"name": "a\n"},
        {"name": ""},
        {"name": "a" * 65},
        {"name": "a", "parameters": {"type": "string"}},
        {"name": "a", "parameters": []},
        {"name": "a", "colour": "red"},
        {"name": "a", "parameters": json.loads('{"a":' * MAX_DEPTH + "{}" + "}" * MAX_DEPTH)},
    ],
)
def test_what_is_no_function_is_refused(function: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Tool.model_validate({"type": "function", "function": function})


def test_there_are_only_so_many_tools() -> None:
    body = {"type": "function", "function": {"name": "a"}}
    with pytest.raises(ValidationError, match="at most 128"):
        TypeAdapter(Tools).validate_python([body] * (MAX_TOOLS + 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "JSON text of an object"),
        ("[]", "it is something else"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": 1e999}', "not JSON compliant"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ('{"a":' * 3000 + "1" + "}" * 3000, "too deep|nest 64 deep"),
        ('{"a":' * 70 + "1" + "}" * 70, "nest 64 deep"),
    ],
)
def test_arguments_of_an_earlier_call_must_be_those_of_one(arguments: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        call("time", arguments)


def test_an_id_holds_no_marker() -> None:
    with pytest.raises(ValidationError):
        call("time", key="<|im_end|>")


# What templates get.


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_template_teaches_its_format(form: Format) -> None:
    assert mentions_tools(TEMPLATES[form])
    assert format_of(TEMPLATES[form]) is form


@pytest.mark.parametrize(
    "source",
    [
        PLAIN,
        "{# tools #}<tool_call>",
        "tools {{ messages }} <tool_call> tools",
        "{% if tools_in_user_message %}<tool_call>{% endif %}",
        "{% if tools %}<tool_call><function=f><parameter=p>{% endif %}",
        "{% if tools %}<tool_call>name<arg_key>a</arg_key>{% endif %}",
        "{% if tools %}<｜tool▁calls▁begin｜>{% endif %}",
    ],
)
def test_a_template_of_another_format_or_none_leaves_it_to_the_gateway(source: str) -> None:
    assert not mentions_tools(source)
    assert format_of(source) is HERMES


def test_a_description_names_each_tool_and_the_markers() -> None:
    text = described(TOOLS)
    lines = text.split("<tools>\n")[1].split("\n</tools>")[0].splitlines()
    assert [json.loads(line)["function"]["name"] for line in lines] == list(NAMES)
    assert json.loads(lines[0])["function"]["parameters"] == CITY
    assert HERMES.opener in text
    assert HERMES.closer in text


TURNS = [
    Turn("user", "Weather and time?", name="Ann"),
    Turn(
        "assistant", "", calls=[call("weather", '{"city": "Rüm"}'), call("time", key="abcdef123")]
    ),
    Turn("tool", "sunny", call_id="call_1"),
    Turn("tool", "noon", call_id="abcdef123"),
    Turn("assistant", "Sunny, noon."),
]


def test_a_template_gets_arguments_as_objects_and_results_with_names() -> None:
    user, calls, first, second, answer = template_messages(TURNS, TEMPLATES[HERMES])
    assert user == {"role": "user", "content": "Weather and time?", "name": "Ann"}
    assert calls["content"] == ""
    made = calls["tool_calls"]
    assert isinstance(made, list)
    assert [entry["function"]["arguments"] for entry in made] == [{"city": "Rüm"}, {}]
    assert (first["name"], first["tool_call_id"]) == ("weather", "call_1")
    assert (second["name"], second["content"]) == ("time", "noon")
    assert answer == {"role": "assistant", "content": "Sunny, noon."}


def test_mistral_gets_ids_of_nine() -> None:
    _, calls, first, second, _ = template_messages(TURNS, TEMPLATES[MISTRAL])
    made = calls["tool_calls"]
    assert isinstance(made, list)
    assert [entry["id"] for entry in made] == [first["tool_call_id"], second["tool_call_id"]]
    assert len(made[0]["id"]) == 9
    assert made[1]["id"] == "abcdef123"


def test_a_template_without_tools_gets_texts() -> None:
    messages = template_messages(TURNS, PLAIN)
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    content = str(messages[1]["content"])
    [*calls] = read(auto(HERMES), [content])
    assert shape(calls) == [("weather", {"city": "Rüm"}), ("time", {})]
    assert messages[2]["content"] == (
        "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nnoon\n</tool_response>"
    )
    assert all(set(message) <= {"role", "content", "name"} for message in messages)


def test_a_result_of_no_call_is_refused() -> None:
    for turns in ([TURNS[2]], [*TURNS[:2], Turn("tool", "x", call_id="other")]):
        for source in (PLAIN, TEMPLATES[HERMES]):
            with pytest.raises(InvalidRequestError, match="no call before it has the id"):
                template_messages(turns, source)


@given(st.text(), st.lists(st.sampled_from(["<|im_end|>", "</s>", "[INST]", "😀>"]), max_size=4))
def test_json_without_markers_says_the_same(text: str, markers: list[str]) -> None:
    value = {"said": text + "".join(markers) + text}
    plain = without_markers(json.dumps(value, ensure_ascii=False), markers)
    assert json.loads(plain) == value
    assert not any(marker in plain for marker in markers)


def test_tools_with_markers_in_their_texts_are_refused() -> None:
    require_plain(TOOLS, ["<|im_end|>"])
    evil = tool("evil", {"properties": {"<|im_end|>": {"type": "string"}}})
    with pytest.raises(InvalidRequestError, match=r"tools\[3\]: '<\|im_end\|>' is a marker"):
        require_plain([*TOOLS, evil], ["<|im_end|>"])


def test_descriptions_are_there_for_templates_that_add_them_up() -> None:
    bare = Tool.model_validate({"type": "function", "function": {"name": "f"}})
    template = ImmutableSandboxedEnvironment().from_string(
        "{{ t.function.name + ': ' + t.function.description }}"
        "{% for name, part in t.function.parameters.properties|items %}{{ name }}{% endfor %}"
    )
    assert template.render(t=bare.described()) == "f: "


# What the text must be.


def follows(model_folder: Path, schema: str | None, text: str) -> bool:
    """Whether the verifier's grammar takes the text, and takes it as whole."""
    assert schema is not None
    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    grammars = Grammars(model_folder, tokenizer.get_vocab_size(), [1])
    matcher = grammars.read(Grammar("json", schema, "tools"))
    tokens = tokenizer.encode(text).ids
    if matcher.followed(tokens)[0] < len(tokens):
        return False
    for token in tokens:
        matcher.advance(token)
    return matcher.is_complete


WEATHER = '{"name": "weather", "arguments": {"city": "Rome"}}'
GROW = '{"name": "grow", "arguments": {"tree": {"of": [{"of": []}]}}}'


@pytest.mark.parametrize(
    ("text", "is_right", "is_right_alone"),
    [
        (f"[{WEATHER}]", True, True),
        (f"[{GROW}]", True, True),
        (f"[{WEATHER}, {GROW}]", True, False),
        ('[{"name": "time", "arguments": {}}]', True, True),
        ("[]", False, False),
        ('[{"name": "time", "arguments": {"zone": 1}}]', False, False),
        ('[{"name": "date", "arguments": {}}]', False, False),
        ('[{"name": "weather", "arguments": {}}]', False, False),
        ('[{"name": "grow", "arguments": {"tree": {"of": [{}]}}}]', False, False),
    ],
)
def test_a_required_call_follows_its_tools_schema(
    model_folder: Path, text: str, is_right: bool, is_right_alone: bool
) -> None:
    several = grammar(Mode("required"), TOOLS, True)
    alone = grammar(Mode("required"), TOOLS, False)
    assert follows(model_folder, several, text) is is_right
    assert follows(model_folder, alone, text) is is_right_alone


def test_a_named_call_follows_the_parameters(model_folder: Path) -> None:
    schema = grammar(Mode("named", "grow"), TOOLS, True)
    assert follows(model_folder, schema, '{"tree": {"of": []}}')
    assert not follows(model_folder, schema, '{"tree": {}}')
    assert follows(model_folder, grammar(Mode("named", "time"), TOOLS, True), "{}")


def test_where_no_call_is_forced_the_text_is_free() -> None:
    assert grammar(Mode("auto"), TOOLS, True) is None
    assert grammar(Mode("none"), TOOLS, True) is None


def test_values_in_a_schema_that_look_like_references_stay() -> None:
    odd: dict[str, object] = {"properties": {"a": {"enum": [{"$ref": "#/b"}]}, "b": {"$ref": "#"}}}
    schema = json.loads(grammar(Mode("required"), [tool("time"), tool("odd", odd)], True) or "")
    properties = schema["items"]["anyOf"][1]["properties"]["arguments"]["properties"]
    assert properties["a"]["enum"] == [{"$ref": "#/b"}]
    assert properties["b"]["$ref"] == "#/items/anyOf/1/properties/arguments"


def test_schemas_that_are_too_large_together_are_refused() -> None:
    wide: dict[str, object] = {"properties": {f"p{n}": {"type": "string"} for n in range(5000)}}
    with pytest.raises(InvalidRequestError, match="characters together"):
        grammar(Mode("required"), [tool("wide", wide)], True)


# Calls out of text.

SAID = {
    HERMES: '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>',
    MISTRAL: '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}, "id": "abcdef123"}]',
    LLAMA3: '<|python_tag|>{"type": "function", "name": "weather", "parameters": {"city": "Rome"}}',
}
CALLED = ("weather", {"city": "Rome"})


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_call_comes_out_of_its_format(form: Format) -> None:
    assert shape(read(auto(form), [SAID[form]])) == [CALLED]
    assert shape(read(auto(form), ["Let me see.\n", SAID[form]])) == ["Let me see.\n", CALLED]
    assert shape(read(auto(form), [f"\n{SAID[form]}\n{SAID[form]}\n"])) == [CALLED, CALLED]
    assert shape(read(auto(form), [f"{SAID[form]}\n So."])) == [CALLED, "\n So."]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (MISTRAL, '[TOOL_CALLS]weather[ARGS]{"city": "Rome"}'),
        (MISTRAL, '[TOOL_CALLS]weather{"city": "Rome"}'),
        (MISTRAL, '[TOOL_CALLS]weather[CALL_ID]abcdef123[ARGS]{"city": "Rome"}'),
        (MISTRAL, ' [{"name": "weather", "arguments": {"city": "Rome"}}]'),
        (LLAMA3, '{"name": "weather", "parameters": {"city": "Rome"}}'),
        (HERMES, '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}'),
    ],
)
def test_a_call_comes_out_of_a_formats_variants(form: Format, text: str) -> None:
    assert shape(read(auto(form), [text])) == [CALLED]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (MISTRAL, '[TOOL_CALLS]weather[ARGS]{"city": "Rome"}[TOOL_CALLS]time[ARGS]{}'),
        (MISTRAL, f'[TOOL_CALLS][{WEATHER},{{"name": "time", "arguments": {{}}}}]'),
        (LLAMA3, f'{WEATHER}; {{"name": "time", "parameters": {{}}}}'),
        (HERMES, f'<tool_call>{WEATHER}<tool_call>{{"name": "time", "arguments": {{}}}}'),
    ],
)
def test_several_calls_come_out(form: Format, text: str) -> None:
    assert shape(read(auto(form), [text])) == [CALLED, ("time", {})]
    alone = auto(form, parallel=False)
    assert shape(read(alone, [text])) == [CALLED]
    assert alone.is_complete


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (MISTRAL, f"[TOOL_CALLS][{WEATHER}"),
        (MISTRAL, f" [ {WEATHER}"),
        (MISTRAL, '[TOOL_CALLS]weather[ARGS]{"city": "Rome"}'),
        (LLAMA3, f"{WEATHER}"),
        (LLAMA3, f"<|python_tag|>[{WEATHER}"),
        (HERMES, f"<tool_call>{WEATHER}"),
        (HERMES, f"<tool_call>[{WEATHER}"),
    ],
)
def test_where_one_call_is_wanted_its_end_is_known_at_once(form: Format, text: str) -> None:
    """Whether more of a list would follow or not."""
    alone = auto(form, parallel=False)
    deltas: list[Delta] = []
    for char in text:
        assert not alone.is_complete
        deltas += alone.push(char)
    assert alone.is_complete
    assert shape(joined([*deltas, *alone.push(f", {WEATHER}]"), *alone.flush()])) == [CALLED]


def test_a_first_of_a_list_that_is_no_call_is_text() -> None:
    text = f'[TOOL_CALLS][{{"name": "date", "arguments": {{}}}}, {WEATHER}]'
    alone = auto(MISTRAL, parallel=False)
    assert shape(read(alone, [text])) == [text]
    assert not alone.is_complete


@pytest.mark.parametrize(
    "inner",
    [
        '{"name": "weather", "arguments": {"city": "Rome"}',
        '{"name": "weather", "arguments": {"city": "Rome}}',
        '{"name": "date", "arguments": {}}',
        '{"name": ["time"], "arguments": {}}',
        '{"name": "time"}',
        '{"name": "time", "arguments": "{}"}',
        '{"name": "time", "arguments": {}, "parameters": {}}',
        '{"name": "time", "arguments": {}, "why": "it was asked"}',
        '{"name": "time", "arguments": {"a": NaN}}',
        '{"name": "time", "arguments": {"a": 1e999}}',
        '{"name": "time", "arguments": {"a": "\\ud800"}}',
        '{"name": "time", "arguments": {"a": ' + "9" * 5000 + "}}",
        '{"name": "time", "arguments": ' + '{"a":' * 70 + "1" + "}" * 71,
        "[]",
        "[1]",
        "{}]",
        "",
        "time",
        "{'name': 'time'}",
    ],
)
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_what_is_no_call_comes_out_as_it_is(form: Format, inner: str) -> None:
    text = f"So: {form.opener}{inner}{form.closer} there"
    assert read(auto(form), [text]) == [Content(text)]
    assert read(auto(form), [*text]) == [Content(text)]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_call_after_a_broken_one_is_found(form: Format) -> None:
    opener = form.opener
    for broken in (opener, f"{opener}{{", f'{opener}[{{"name": "time\n', opener[:-1]):
        assert shape(read(auto(form), [broken, SAID[form]])) == [broken, CALLED]
        assert shape(read(auto(form), [*broken, *SAID[form]])) == [broken, CALLED]


def test_a_marker_within_an_argument_ends_nothing() -> None:
    text = '<tool_call>{"name": "time", "arguments": {"a": "</tool_call> <tool_call> \\" }"}}'
    assert shape(read(auto(HERMES), [text])) == [("time", {"a": '</tool_call> <tool_call> " }'})]


def test_content_goes_out_at_once_but_for_the_beginning_of_a_marker() -> None:
    ours = auto(HERMES)
    assert ours.push("a < b") == [Content("a < b")]
    assert ours.push(" <tool") == [Content(" ")]
    assert ours.push("box>") == [Content("<toolbox>")]
    assert ours.push("<tool_call>{") == []
    assert ours.push("x") == [Content("<tool_call>{x")]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_what_is_held_back_has_an_end(form: Format) -> None:
    for text in (
        f'{form.opener}{{"name": "' + "x" * MAX_CALL_CHARS,
        " " * (MAX_BLANK_CHARS + 1),
        form.opener + " " * (MAX_NAMING_CHARS + 1),
    ):
        whole, pieces = auto(form), auto(form)
        assert "".join(d.text for d in whole.push(text) if isinstance(d, Content)) == text
        size = 997
        cut = [text[n : n + size] for n in range(0, len(text), size)]
        assert joined([d for piece in cut for d in pieces.push(piece)]) == [Content(text)]


PARTS = st.sampled_from(
    [
        *SAID.values(), *(f.opener for f in FORMATS), *(f.closer for f in FORMATS), WEATHER, GROW,
        '{"name": "time", "parameters": {}}', "time[ARGS]{}", f"[{WEATHER}, {GROW}]", "[", "]",
        "{", "}", '"', "\\", "<", "<tool_", "</tool", " ", "\n", ";", "; ", "é😀", "text", "T",
    ]
)  # fmt: skip
TEXTS = st.lists(PARTS | st.text(max_size=5), max_size=12).map("".join)
CUTS = st.lists(st.integers(0, 400), max_size=12)


def cut(text: str, cuts: Sequence[int]) -> list[str]:
    places = [0, *sorted(min(place, len(text)) for place in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(places)]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@given(text=TEXTS, cuts=CUTS)
def test_how_the_text_is_cut_changes_nothing(form: Format, text: str, cuts: list[int]) -> None:
    whole = read(auto(form), [text])
    assert read(auto(form), cut(text, cuts)) == whole
    assert read(auto(form), [*text]) == whole
    shape(whole)
    if not any(isinstance(delta, CallStart) for delta in whole):
        assert whole == ([Content(text)] if text else [])


@given(text=TEXTS | TEXTS.map(lambda text: f"[{WEATHER}, {text}"), cuts=CUTS)
def test_how_the_text_of_required_calls_is_cut_changes_nothing(text: str, cuts: list[int]) -> None:
    whole = read(required(), [text])
    assert read(required(), cut(text, cuts)) == whole
    assert read(required(), [*text]) == whole
    named = Mode("named", "time")
    alone = read(reader(named, HERMES, NAMES, ids(), True), [text])
    assert read(reader(named, HERMES, NAMES, ids(), True), [*text]) == alone
    said = "".join(d.text for d in alone if not isinstance(d, CallStart))
    assert said == text


SPOKEN = st.text(st.sampled_from("ab <tol/_[T{\n"), min_size=1).filter(
    lambda text: not text.isspace() and "<tool_call>" not in text
)
ARGUMENTS = st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.lists(st.text()))


@given(
    st.lists(SPOKEN | st.tuples(st.sampled_from(NAMES), ARGUMENTS), max_size=6),
    st.booleans(),
    CUTS,
)
def test_contents_and_calls_come_out_as_they_went_in(
    parts: list[str | tuple[str, object]], is_ascii: bool, cuts: list[int]
) -> None:
    expected: list[str | tuple[str, object]] = []
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            if expected and isinstance(expected[-1], str):
                expected[-1] += part
            else:
                expected.append(part)
        else:
            said = {"name": part[0], "arguments": part[1]}
            text += f"<tool_call>{json.dumps(said, ensure_ascii=is_ascii)}</tool_call>"
            expected.append(part)
    assert shape(read(auto(HERMES), cut(text, cuts))) == expected


def test_required_calls_come_out_as_they_are_written() -> None:
    ours = required()
    assert ours.push('[{"name": "wea') == []
    assert ours.push('ther", "arguments": {"ci') == [
        CallStart(0, f"call_{0:024x}", "weather"),
        CallArguments(0, '{"ci'),
    ]
    assert ours.push('ty": "}]"}}, {"name": "time", "arguments": {}') == [
        CallArguments(0, 'ty": "}]"}'),
        CallStart(1, f"call_{1:024x}", "time"),
        CallArguments(1, "{}"),
    ]
    assert not ours.is_complete
    assert ours.push("}]") == []
    assert ours.is_complete
    assert ours.num_calls == 2
    assert ours.flush() == []


@pytest.mark.parametrize("rest", ["", "}", "}, ", "}, {"])
def test_a_list_cut_short_behind_a_call_leaves_no_crumbs(rest: str) -> None:
    text = '[{"name": "time", "arguments": {}' + rest
    assert shape(read(required(), [text])) == [("time", {})]


@pytest.mark.parametrize(
    "text", ["no list", '[{"name": "date", "arguments": {}}]', "[" + " " * MAX_HEAD_CHARS]
)
def test_a_list_that_is_none_comes_out_as_it_is(text: str) -> None:
    assert read(required(), [text]) == [Content(text)]


def test_a_named_call_comes_out_as_it_is_written() -> None:
    ours = reader(Mode("named", "time"), HERMES, NAMES, ids(), True)
    assert ours.push("") == []
    assert ours.push('{"a"') == [CallStart(0, f"call_{0:024x}", "time"), CallArguments(0, '{"a"')]
    assert ours.push(': "}"}') == [CallArguments(0, ': "}"}')]
    assert ours.is_complete
    assert ours.push(" more") == [Content(" more")]
    assert ours.flush() == []
