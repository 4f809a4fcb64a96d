"""Real vocabularies with their chat templates, from the cache that `make tokenizers` fills.

Two of them come without a template, and some more templates are put on vocabularies with the same control tokens:
those are written here, to give what the models' own give for system, user and assistant turns."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROOT = Path(__file__).resolve().parent.parent
TURNS = "{%- for m in messages -%}"
LLAMA2 = (
    "{%- set ns = namespace(system='') -%}" + TURNS + "{%- if m.role == 'system' -%}"
    "{%- set ns.system = '<<SYS>>\\n' + m.content + '\\n<</SYS>>\\n\\n' -%}"
    "{%- elif m.role == 'user' -%}{{ bos_token + '[INST] ' + ns.system + m.content.strip() + ' [/INST]' }}"
    "{%- set ns.system = '' -%}"
    "{%- else -%}{{ ' ' + m.content.strip() + ' ' + eos_token }}{%- endif -%}{%- endfor -%}"
)
MISTRAL = (
    "{{- bos_token -}}{%- if messages[0].role == 'system' -%}{{ raise_exception('no system turn') }}{%- endif -%}"
    + TURNS
    + "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('order') }}{%- endif -%}"
    "{%- if m.role == 'user' -%}{{ '[INST] ' + m.content + '[/INST]' }}"
    "{%- else -%}{{ ' ' + m.content | trim + eos_token }}{%- endif -%}{%- endfor -%}"
)
GEMMA2 = (
    "{{- bos_token -}}{%- if messages[0].role == 'system' -%}{{ raise_exception('no system turn') }}{%- endif -%}"
    + TURNS
    + "{%- set who = 'model' if m.role == 'assistant' else m.role -%}"
    "{{ '<start_of_turn>' + who + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"
)
GPT_OSS = (
    "{{- '<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\\n"
    "Knowledge cutoff: 2024-06\\nCurrent date: ' + strftime_now('%Y-%m-%d') + '\\n\\nReasoning: medium\\n\\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>' -}}"
    + TURNS
    + "{%- if m.role == 'system' -%}"
    "{{ '<|start|>developer<|message|># Instructions\\n\\n' + m.content + '\\n\\n<|end|>' }}"
    "{%- elif m.role == 'user' -%}{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}"
    "{%- else -%}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|start|>assistant' }}{%- endif -%}"
)
LLAMA3_2 = (
    "{{- bos_token }}{%- if not date_string is defined -%}{%- if strftime_now is defined -%}"
    "{%- set date_string = strftime_now('%d %b %Y') -%}{%- else -%}{%- set date_string = '26 Jul 2024' -%}{%- endif -%}"
    "{%- endif -%}{%- set ns = namespace(system='', rest=messages) -%}{%- if messages[0].role == 'system' -%}"
    "{%- set ns.system = messages[0].content | trim -%}{%- set ns.rest = messages[1:] -%}{%- endif -%}"
    "{{ '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\nToday Date: ' }}"
    "{{- date_string + '\\n\\n' + ns.system + '<|eot_id|>' }}{%- for m in ns.rest -%}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}"
)
QWEN_THINKING = (
    TURNS + "{{ '<|im_start|>' + m.role + '\\n' + m.content.split('</think>')[-1].lstrip('\\n') + '<|im_end|>\\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n<think>\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}{{ '\\n</think>\\n\\n' }}{%- endif -%}"
    "{%- endif -%}"
)
R1 = QWEN_THINKING.partition("{%- if enable")[0] + "{%- endif -%}"
TEMPLATES: dict[str, tuple[str, str | None]] = {
    "llama3_1": ("llama3_1", None),
    "llama3_2": ("llama3_1", LLAMA3_2),
    "gemma3": ("gemma3", None),
    "gemma2": ("gemma3", GEMMA2),
    "qwen3": ("qwen3", None),
    "qwen_thinking": ("qwen3", QWEN_THINKING),
    "r1": ("qwen3", R1),
    "gptoss": ("gptoss", GPT_OSS),
    "llama2": ("llama2", LLAMA2),
    "mistral": ("llama2", MISTRAL),
}
"""By name the vocabulary, and the template where it is not the vocabulary's own."""


def bringing():
    """The script that fills the cache, as a module."""
    spec = importlib.util.spec_from_file_location("bring_packages", ROOT / "scripts" / "bring_packages.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@cache
def real_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of this name in `TEMPLATES`; treat it as read-only. Skips the test where it is not in the cache."""
    from transformers import AutoTokenizer

    vocabulary, template = TEMPLATES[name]
    folder = bringing().vocabulary(vocabulary).place
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: run make tokenizers")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.name_or_path = name
    if name == "mistral":
        tokenizer.add_special_tokens({"additional_special_tokens": ["[INST]", "[/INST]"]})
    if template:
        tokenizer.chat_template = template
    return tokenizer
