/** Counts calls, wrong answers and calls that were lost; remembers the first of each kind. */

const EXAMPLES = 20;

export class Book {
  calls = 0;
  kills = 0;
  wrong = 0;
  lost = 0;
  errors = {};
  byKind = {};
  #examples = [];
  #limitMs;

  constructor(limitMs) {
    this.#limitMs = limitMs;
  }

  /**
   * Make a call of a kind and judge it. `check` returns what is wrong with its value, or nothing;
   * `allows` says whether an error is one that the promises explain.
   */
  async judge(kind, call, check, allows) {
    this.calls++;
    this.byKind[kind] = (this.byKind[kind] ?? 0) + 1;
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Late()), this.#limitMs);
    });
    try {
      const value = await Promise.race([call(), late]);
      const problem = check(value);
      if (problem !== undefined) this.#note('wrong', kind, problem);
      return value;
    } catch (error) {
      const code = error.code ?? error.name;
      this.errors[code] = (this.errors[code] ?? 0) + 1;
      const problem = error instanceof Late ? 'it did not settle' : allows(error);
      if (problem !== undefined) {
        this.#note('lost', kind, `${problem}: ${code}: ${error.message}`);
      }
      return undefined;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Note an answer whose part was wrong, though its call failed. */
  wrongPart(kind, problem) {
    this.#note('wrong', kind, problem);
  }

  #note(what, kind, problem) {
    this[what]++;
    if (this.#examples.length < EXAMPLES) this.#examples.push(`${what}: ${kind}: ${problem}`);
  }

  toJson() {
    const { calls, kills, wrong, lost, errors, byKind } = this;
    return { calls, kills, wrong, lost, errors, byKind, examples: this.#examples };
  }
}

class Late extends Error {
  name = 'Late';
}
